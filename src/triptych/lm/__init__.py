"""The language model: ids in, ids out. Knows vocabularies, transformers and sampling, nothing of sound."""
