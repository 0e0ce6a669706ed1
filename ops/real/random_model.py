#!/usr/bin/env python3
"""Writes a language model of random weights as a GGUF file, for a server that is to be loaded and not to be understood.

    random_model.py FILE [--layers 4] [--width 256] [--heads 8] [--kv-heads 4] [--hidden 704] [--vocabulary 4096] [--context 16384]
                         [--seed 1]

An architecture of Llama's kind with weights in 16 bits; 10 MB as it stands, in a second. It answers syllables, as fast as a model of
its size answers sense. The same arguments write the same file. Needs the packages `gguf` and `numpy`.
"""

import argparse
import itertools

import gguf
import numpy

SPECIAL = ["<unk>", "<s>", "</s>"]
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def vocabulary(size):
    """Returns `size` tokens with their types: special ones, all bytes, and then letters and syllables."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = (f"{mark}{''.join(word)}" for word in itertools.product(letters, repeat=2) for mark in ("\u2581", ""))
    triples = (f"{mark}{''.join(word)}" for word in itertools.product(letters, repeat=3) for mark in ("\u2581", ""))
    words = itertools.chain(["\u2581", *letters, *".,:;!?'\"-"], pairs, triples)
    kinds = gguf.TokenType
    tokens = [(SPECIAL[0], kinds.UNKNOWN), (SPECIAL[1], kinds.CONTROL), (SPECIAL[2], kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    tokens += [(word, kinds.NORMAL) for word in itertools.islice(words, max(0, size - len(tokens)))]
    if len(tokens) != size:
        raise SystemExit(f"--vocabulary must be 259 to {len(tokens)}")
    return tokens


def write(file, options):
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("kloros-random")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(options.context)
    writer.add_embedding_length(options.width)
    writer.add_block_count(options.layers)
    writer.add_feed_forward_length(options.hidden)
    writer.add_head_count(options.heads)
    writer.add_head_count_kv(options.kv_heads)
    writer.add_rope_dimension_count(options.width // options.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(options.vocabulary)

    tokens = vocabulary(options.vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([-float(place) for place in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)

    random = numpy.random.default_rng(options.seed)

    def weights(name, rows, columns, silent=0):
        # Uniform, of the variance that keeps what goes through it as large as it was.
        span = numpy.float32(0.8 * (3.0 / columns) ** 0.5)
        values = (random.random((rows, columns), dtype=numpy.float32) * 2 - 1) * span
        values[:silent] = 0
        writer.add_tensor(name, values.astype(numpy.float16))

    def norm(name):
        writer.add_tensor(name, numpy.ones(options.width, dtype=numpy.float32))

    keys = options.width // options.heads * options.kv_heads
    weights("token_embd.weight", options.vocabulary, options.width)
    for layer in range(options.layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        weights(f"{block}.attn_q.weight", options.width, options.width)
        weights(f"{block}.attn_k.weight", keys, options.width)
        weights(f"{block}.attn_v.weight", keys, options.width)
        weights(f"{block}.attn_output.weight", options.width, options.width)
        norm(f"{block}.ffn_norm.weight")
        weights(f"{block}.ffn_gate.weight", options.hidden, options.width)
        weights(f"{block}.ffn_up.weight", options.hidden, options.width)
        weights(f"{block}.ffn_down.weight", options.width, options.hidden)
    norm("output_norm.weight")
    # What is no text is never the likeliest: an answer made of it would be empty, or no UTF-8.
    weights("output.weight", options.vocabulary, options.width, silent=len(SPECIAL) + 256)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file")
for name, default in {
    "layers": 4, "width": 256, "heads": 8, "kv-heads": 4, "hidden": 704, "vocabulary": 4096, "context": 16384, "seed": 1,
}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
arguments = parser.parse_args()
write(arguments.file, arguments)
