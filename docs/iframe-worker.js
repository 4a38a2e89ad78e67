// Browsers start no workers for pages on a disk. There, a hidden frame does the
// work of one, the search. The theme looks for this name, docs/mkdocs.yml.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) =>
        this.dispatchEvent(new MessageEvent("message", { data }));
      const script = this.inside.document.createElement("script");
      script.src = address;
      this.loaded = new Promise((resolve) => (script.onload = resolve));
      this.inside.document.body.append(script);
    }
    async postMessage(data) {
      await this.loaded;
      const { inside } = this;
      inside.dispatchEvent(new inside.MessageEvent("message", { data }));
    }
  };
}
