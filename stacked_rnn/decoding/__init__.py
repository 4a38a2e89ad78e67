"""From logits to text: samplers, the generation loop, beam search."""
