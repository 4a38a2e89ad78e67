"""All settings of the project, as frozen dataclasses."""

from stacked_rnn.configs.base import (
    Config,
    DiskError,
    UserError,
    check_encodable,
    check_names,
    escaped,
    plain_values,
    setting,
    unescaped,
)
from stacked_rnn.configs.commands import (
    MOST_DRAWN,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    InspectConfig,
    PredictConfig,
    SavedModelConfig,
    ServeConfig,
    TuneConfig,
)
from stacked_rnn.configs.decoding import (
    MAX_NEW_TOKENS,
    BeamConfig,
    SamplingConfig,
)
from stacked_rnn.configs.flag_files import is_switch, to_flags, user_settings
from stacked_rnn.configs.model import REGULARIZERS, ModelConfig
from stacked_rnn.configs.search_space import SEARCHABLE, Dimension
from stacked_rnn.configs.tasks import (
    TASKS,
    TaskInfo,
    replace_settings,
    with_task_defaults,
)
from stacked_rnn.configs.training import TrainConfig, tracker_names
