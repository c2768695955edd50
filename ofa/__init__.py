"""OFA for visual entailment, in plain PyTorch: inference on ModelScope's model folders.

The folder holds the neural network and nothing else: no threads, no HTTP, no settings.

* :mod:`ofa.documents`   text and JSON of unknown origin, read within bounds
* :mod:`ofa.config`      reads ``config.json`` and ``configuration.json`` and refuses what cannot be honoured
* :mod:`ofa.tokenizer`   byte-level BPE, with the prompts and the word clean-up of the original
* :mod:`ofa.container`   a picture file reduced to what its pixels need
* :mod:`ofa.tiff`        TIFF's directories, which EXIF blocks are as well
* :mod:`ofa.picture`     a picture file to RGB pixels, as a browser shows them
* :mod:`ofa.image`       a picture to normalised pixels
* :mod:`ofa.vision`      the ResNet cut after its third stage
* :mod:`ofa.positions`   buckets of relative positions
* :mod:`ofa.layers`      attention and transformer layers
* :mod:`ofa.network`     encoder, decoder and the whole network
* :mod:`ofa.archive`     the head of a weight file, measured before it is read, and the checksums in it
* :mod:`ofa.checkpoint`  strict, weights-only loading
* :mod:`ofa.fold`        arithmetic done once after loading instead of for every picture
* :mod:`ofa.bias`        the attention bias of every request, computed once
* :mod:`ofa.memory`      memory that is used again instead of asked for anew
* :mod:`ofa.converted`   the result of all that, kept in a file to map
* :mod:`ofa.scoring`     the probabilities of the allowed answers
* :mod:`ofa.model`       all of it together: :class:`~ofa.model.EntailmentModel`
* :mod:`ofa.precision`   bf16 and fp16 whose close calls are decided in fp32
"""
