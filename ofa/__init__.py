"""OFA for visual entailment, in plain PyTorch: inference on ModelScope's model folders.

No threads, no HTTP, no settings.

* :mod:`ofa.documents`   bounded reading of untrusted text and JSON
* :mod:`ofa.config`      ``config.json`` and ``configuration.json``; unsupported values are refused
* :mod:`ofa.tokenizer`   byte-level BPE, prompts and caption clean-up
* :mod:`ofa.container`   picture files reduced to what decoding needs
* :mod:`ofa.tiff`        TIFF directories, also used by EXIF
* :mod:`ofa.picture`     a picture file decoded to RGB as a browser shows it
* :mod:`ofa.image`       a picture to normalised pixels
* :mod:`ofa.vision`      the ResNet cut after its third stage
* :mod:`ofa.positions`   buckets of relative positions
* :mod:`ofa.layers`      attention and transformer layers
* :mod:`ofa.network`     encoder, decoder and the whole network
* :mod:`ofa.archive`     size check of a weight file's header; checksums of its contents
* :mod:`ofa.checkpoint`  strict, weights-only loading
* :mod:`ofa.fold`        constant arithmetic folded into the weights after loading
* :mod:`ofa.bias`        a cache of the attention bias
* :mod:`ofa.memory`      malloc tuning, to reuse freed memory
* :mod:`ofa.converted`   folded weights cached in a memory-mapped file
* :mod:`ofa.pair`        an image and a hypothesis, the input of the model
* :mod:`ofa.scoring`     the probabilities of the allowed answers
* :mod:`ofa.model`       the complete model: :class:`~ofa.model.EntailmentModel`
* :mod:`ofa.processor`   the kind of processor, by its instruction sets
* :mod:`ofa.padded`      texts of different length in one batch, for a GPU
* :mod:`ofa.graphs`      computations recorded by shape and replayed (CUDA graphs)
* :mod:`ofa.int8`        products in int8
* :mod:`ofa.quantize`    makes int8 weights
* :mod:`ofa.int8_check`  compares their answers with fp32
* :mod:`ofa.int8_file`   caches them with the result
* :mod:`ofa.samples`     seeded pictures and sentences
* :mod:`ofa.precision`   reduced precisions with close calls decided by the next one
"""
