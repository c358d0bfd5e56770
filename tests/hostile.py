"""Pickles made by hand, opcode by opcode, to hurt whoever reads them; `SHARDS`, `ARTICLES`: name → bytes."""

import io
import pickle
import struct

from tests.shards import OldNumpyPickler, articles_of, rows_of

ROWS = rows_of(8, 4)
MODULES_THAT_RUN = (
    "os system",
    "posix system",
    "nt system",
    "subprocess Popen",
    "subprocess check_output",
    "builtins eval",
    "builtins exec",
    "builtins compile",
    "builtins getattr",
    "builtins setattr",
    "builtins __import__",
    "builtins open",
    "builtins print",
    "builtins type",
    "builtins globals",
    "builtins map",
    "builtins breakpoint",
    "__builtin__ eval",
    "importlib import_module",
    "runpy run_path",
    "pty spawn",
    "code interact",
    "codecs open",
    "_codecs decode",
    "shutil rmtree",
    "socket create_connection",
    "webbrowser open",
    "ctypes CDLL",
    "ctypes string_at",
    "operator attrgetter",
    "operator methodcaller",
    "functools partial",
    "functools reduce",
    "types CodeType",
    "types FunctionType",
    "marshal loads",
    "pickle loads",
    "_pickle loads",
    "copyreg _reconstructor",
    "copyreg __newobj__",
    "timeit timeit",
    "pdb run",
    "pip main",
    "distutils.file_util write_file",
    "numpy load",
    "numpy fromfile",
    "numpy frombuffer",
    "numpy memmap",
    "numpy.lib.npyio load",
    "numpy matrix",
    "numpy void",
    "numpy.testing._private.utils runstring",
    "numpy.f2py.diagnose run_command",
    "numpy.ma.core _mareconstruct",
    "numpy._core.records fromrecords",
    "numpy._core._internal _reconstruct",
    "numpy._core.multiarray dot",
    "torch load",
    "torch._utils _rebuild_tensor_v2",
    "pandas read_pickle",
    "joblib load",
    "dill._dill _load_type",
    "cloudpickle.cloudpickle _make_function",
    "pathlib PosixPath",
    "decimal Decimal",
    "uuid UUID",
    "collections Counter",
    "collections defaultdict",
    "threading Thread",
    "multiprocessing.util ForkAwareLocal",
    "signal raise_signal",
    "sys exit",
    "sys _getframe",
    "gc get_objects",
    "embmerge.picklewalk walk",
)


def text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    return pickle.encode_long(value).join((b"\x8a" + bytes((len(pickle.encode_long(value)),)), b""))


def plain(value):
    """The opcodes that leave `value` on the stack."""
    buffer = io.BytesIO()
    pickler = OldNumpyPickler(buffer, protocol=3)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()[2:-1]


ARRAY = plain(ROWS)
FIELDS = {
    "embeddings": ARRAY,
    "start_index": b"K\0",
    "end_index": b"K\x08",
    "cluster_id": b"K\1",
    "gpu_id": b"K\0",
    "model": text("m"),
}


def shard(**values):
    """A whole shard of which some values are other opcodes; None leaves one out."""
    items = {**FIELDS, **values}
    return b"\x80\x04}(" + b"".join(text(key) + value for key, value in items.items() if value is not None) + b"u."


def array(shape=None, dtype=None, raw=None):
    """An array as `_reconstruct` and BUILD, of any parts."""
    shape = plain(ROWS.shape) if shape is None else shape
    dtype = plain(ROWS.dtype) if dtype is None else dtype
    raw = b"B" + struct.pack("<I", ROWS.nbytes) + ROWS.tobytes() if raw is None else raw
    begin = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR"
    return begin + b"(K\1" + shape + dtype + b"\x89" + raw + b"tb"


def dtype_of(code, state=b"(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"):
    state = state.replace(b"U\1<", text("<"))
    return b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R" + state


def call(name, arguments=b")"):
    module, function = name.split(" ")
    return f"c{module}\n{function}\n".encode() + arguments + b"R"


def _globals():
    for number, name in enumerate(MODULES_THAT_RUN):
        module, function = name.split(" ")
        touch = text("touch ran-code") + b"\x85"
        yield f"calls {name}", shard(extra=call(name, touch))
        if number % 5 == 0:
            yield f"names {name} from the stack", shard(extra=text(module) + text(function) + b"\x93" + touch + b"R")
            yield f"instantiates {name}", shard(extra=b"(" + touch[:-1] + f"i{module}\n{function}\n".encode())
            yield f"only names {name}", shard(extra=f"c{module}\n{function}\n".encode())
            yield f"starts with {name}", b"\x80\x04" + call(name, touch) + b"."


def _arrays():
    huge = 1 << 40
    for code in (
        "O",
        "O8",
        "|O",
        "S2000000000",
        "U99999999",
        "V9999999",
        "M8[ns]",
        "f4,O",
        "(3,)f4",
        "i4",
        "c8",
        "b",
        "",
        "f",
        "f3",
        "f16",
        "2f4",
        "T",
        "{'names':['a']}",
        "f4\0",
        "f4" * 900,
        "\uff46\uff14",
        "\x1b[2J",
    ):
        yield f"dtype {code[:20]!a}", shard(embeddings=array(dtype=dtype_of(code)))
    for name, state in {
        "of object flags": b"(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb",
        "with fields": b"(K\3U\1<N" + plain(("a",)) + b"}K\4K\1K\0tb",
        "of a subarray": b"(K\3U\1<" + b"(" + plain("f4") + plain((99,)) + b"t" + b"NNK\4K\1K\0tb",
        "of a byte order that is none": b"(K\3" + text("?") + b"NNNK\0K\0K\0tb",
        "of a deep byte order": b"(K\3)" + b"\x85" * 900 + b"NNNK\0K\0K\0tb",
        "of an empty state": b")b",
        "of a dict as state": b"}b",
    }.items():
        yield f"dtype {name}", shard(embeddings=array(dtype=dtype_of("f4", state)))
    for name, shape in {
        "huge": plain((huge, huge)),
        "overflowing": plain((1 << 62, 4)),
        "beyond its bytes": plain((9, 4)),
        "below its bytes": plain((7, 4)),
        "negative": plain((-1, -32)),
        "negative twice": plain((-8, -4)),
        "flat": plain((32,)),
        "cubic": plain((2, 4, 4)),
        "empty": b")",
        "of zeros": plain((0, 4)),
        "of zero columns": plain((8, 0)),
        "with zero and huge": plain((0, huge)),
        "of text": plain(("8", "4")),
        "of floats": plain((8.0, 4.0)),
        "a list": plain([8, 4]),
        "a number": plain(32),
        "true": plain((True, 32)),
        "of 4,000 dimensions": plain((1,) * 4000),
        "a long of 200 bytes": plain((1 << 1600, 4)),
    }.items():
        yield f"shape {name}", shard(embeddings=array(shape=shape))
    for name, raw in {
        "of 2**63 bytes": b"\x8e" + struct.pack("<Q", 1 << 63),
        "of 2**64-1 bytes": b"\x8e" + b"\xff" * 8,
        "of 4 GB": b"B\xff\xff\xff\xff",
        "of a bytearray of 2**62": b"\x96" + struct.pack("<Q", 1 << 62),
        "none": b"N",
        "text": text("x" * 128),
        "a list": plain([0] * 128),
        "the array itself": b"h\0",
        "a tuple": b")",
        "of an out-of-band buffer": b"\x97",
        "of a read-only buffer": b"\x97\x98",
        "of a long text": text("x" * 9000),
        "an int": b"K\1",
        "of a forged encoding": call("_codecs encode", text("x" * 128) + text("punycode") + b"\x86"),
        "of a rot13": call("_codecs encode", text("x" * 128) + text("rot13") + b"\x86"),
        "of a deep codec": call("_codecs encode", text("x") + b")" + b"\x85" * 30000 + b"\x86"),
        "of a text that is not latin": call("_codecs encode", text("東" * 128) + text("latin1") + b"\x86"),
        "of a long text that is not latin": call("_codecs encode", text("東" * 3000) + text("latin1") + b"\x86"),
        "of a count of bytes": call("builtins bytes", number(huge) + b"\x85"),
        "of a count of a bytearray": call("builtins bytearray", number(huge) + b"\x85"),
        "of bytes of a list": call("builtins bytes", plain([1, 2]) + b"\x85"),
    }.items():
        yield f"array data {name}", shard(embeddings=array(raw=raw))
    whole = b"cnumpy\nndarray\n" + plain((8, 4)) + plain(ROWS.dtype)
    yield "array with an offset", shard(embeddings=whole + b"B\x80\0\0\0" + ROWS.tobytes() + b"K\x08tR")
    yield (
        "array with strides",
        shard(
            embeddings=b"cnumpy\nndarray\n("
            + plain((8, 4))
            + plain(ROWS.dtype)
            + b"B\x80\0\0\0"
            + ROWS.tobytes()
            + b"K\0"
            + plain((1 << 30, 4))
            + b"tR"
        ),
    )
    yield "array unfinished", shard(embeddings=array().rpartition(b"(K\1")[0])
    yield "array built twice", shard(embeddings=array() + b"(K\1" + plain((1, 1)) + plain(ROWS.dtype) + b"\x89C\0tb")
    yield "array built of a dict", shard(embeddings=array().rpartition(b"(K\1")[0] + b"}b")
    yield "array of an evil kind", shard(embeddings=array().replace(b"cnumpy\nndarray\n", b"cos\nsystem\n"))
    yield "array of a kind that is a list", shard(embeddings=array().replace(b"cnumpy\nndarray\n", b"]"))
    yield "frombuffer of a list", shard(embeddings=call("numpy._core.numeric _frombuffer", b"(]" + b"]]]t"))
    yield (
        "scalar that is too short",
        shard(start_index=call("numpy._core.multiarray scalar", plain(ROWS.dtype) + b"C\1a\x86")),
    )
    yield "scalar of an object", shard(start_index=call("numpy._core.multiarray scalar", dtype_of("O8") + b"K\1\x86"))
    yield "scalar of nothing", shard(start_index=call("numpy._core.multiarray scalar"))
    yield "state set on a function", shard(extra=b"cnumpy\ndtype\n}b")
    yield "state set on a number", shard(extra=b"K\1)b")
    yield "call of a list", shard(extra=b"])R")
    yield "call of text", shard(extra=text("eval") + b")R")
    yield "call with a list of arguments", shard(extra=b"cnumpy\ndtype\n]R")
    yield "call with no arguments", shard(embeddings=call("numpy ndarray"))
    yield "new object", shard(extra=b"cnumpy\nndarray\n)\x81")
    yield "new object with keywords", shard(extra=b"cnumpy\nndarray\n)}\x92")
    yield (
        "dict of pairs with a deep key",
        shard(extra=b"ccollections\nOrderedDict\n](" + b")" + b"\x85" * 30000 + b"K\1\x86e\x85R"),
    )


def _machine():
    for name, opcodes in {
        "a persistent id": b"Pid\n",
        "a binary persistent id": text("id") + b"Q",
        "an extension": b"\x82\1",
        "a long extension": b"\x84\1\0\0\0",
        "an unknown opcode": b"\xff",
        "a null opcode": b"\0",
        "DUP": b"K\0" + b"2",
        "POP": b"K\0K\0" + b"0",
        "POP_MARK": b"(K\1" + b"1N",
        "OBJ": b"(cos\nsystem\no",
        "a memo entry that is missing": b"h\xfa",
        "a memo entry that is missing, far": b"j\xff\xff\xff\x7f",
        "a memo entry of 2**31": b"Nr\xff\xff\xff\x7f",
        "a negative memo entry": b"p-1\n",
        "a stack underflow": b"\x86\x87\x86\x85s",
        "APPEND to a number": b"K\1K\1a",
        "APPENDS to nothing": b"(e",
        "SETITEM on a list": b"]K\1K\1s",
        "SETITEMS of an odd number": b"}(K\1u",
        "ADDITEMS to a list": b"](K\1\x90",
        "a mark as a value": b"(",
        "a mark as a key": b"}((K\1u",
        "a tuple of a mark": b"(\x85",
        "an int of text": b"I1\n",
        "a float of text": b"F1.0\n",
        "a string of text": b"S'a'\n",
        "a unicode line": b"Va\n",
        "a long of text": b"L1L\n",
        "a huge long": b"\x8b\xff\xff\xff\x7f",
        "a long of 64 KB": b"\x8b\0\0\1\0" + b"\x7f" * 65536,
        "a negative length": b"T\xff\xff\xff\xff",
        "a frame that ends beyond the file": b"\x95" + b"\xff" * 8 + b"N",
        "a frame of nothing": b"\x95" + b"\0" * 8 + b"N",
        "protocol 255": b"\x80\xffN",
        "a nested protocol": b"\x80\2N",
        "text of 2**64-1": b"\x8d" + b"\xff" * 8,
        "text of 4 GB": b"X\xff\xff\xff\xff",
        "text that is not UTF-8": b"X\2\0\0\0\xff\xff",
        "half a surrogate": text("\ud83d"),
        "a global of one line": b"cos\n",
        "a global without an end": b"c" + b"a" * 5000,
        "a global that is not text": b"K\1K\2\x93",
        "a global of an escape": b"c\x1b[2J\nx\n",
        "a number beyond a float": number(10**320),
        "NaN": b"G\x7f\xf8" + b"\0" * 6,
        "deep tuples": b")" + b"\x85" * 20000,
        "deep lists": b"]" * 10000 + b"a" * 9999,
        "deep dicts": b"}" + b"N}" * 9000 + b"s" * 9000,
        "a deep tuple as a key": b"})" + b"\x85" * 20000 + b"K\1s",
        "a list in itself": b"]\x94h\0a",
        "a list as a key": b"}]K\1s",
        "shared tuples, exponentially many": b")"
        + b"".join(b"q" + bytes((n,)) + b"h" + bytes((n,)) + b"\x86" for n in range(200)),
        "many small values": b"](" + b"N" * 70000 + b"e",
        "many long values": b"](" + (text("x" * 5000) * 40) + b"e",
        "too many long values": b"](" + (text("x" * 4097) * 1030) + b"e",
        "as many bytes as are read": b"](" + b"C\0" * 199_900 + b"e",
        "too many bytes": b"](" + b"C\0" * 300_000 + b"e",
        "too many sets": b"](" + b"\x8f" * 300_000 + b"e",
        "too many memo entries": b"N" + b"\x94" * 300_000,
        "as much text as is read": b"](" + (text("\U0001f600" + "x" * 4092) * 1000) + b"e",
        "colliding keys": b"}(" + b"".join(number(n * ((1 << 61) - 1)) + b"N" for n in range(1, 3000)) + b"u",
        "marks without end": b"(" * 20000,
    }.items():
        yield name, shard(extra=opcodes)
        if len(opcodes) < 100:
            yield f"{name}, first of all", b"\x80\x04" + opcodes + b"."


def _schema():
    honest = shard()
    for key in FIELDS:
        yield f"no {key}", shard(**{key: None})
    for key in ("start_index", "end_index", "cluster_id", "gpu_id"):
        for name, value in {
            "text": text("0"),
            "a float": b"G" + b"\0" * 8,
            "negative": number(-1),
            "huge": number(1 << 90),
            "true": b"\x88",
            "an array": ARRAY,
            "None": b"N",
        }.items():
            yield f"{key} is {name}", shard(**{key: value})
    yield "an end before the start", shard(start_index=b"K\x10")
    yield "rows that disagree with the range", shard(end_index=b"K\x09")
    yield "embeddings as lists", shard(embeddings=plain(ROWS.tolist()))
    yield "embeddings as bytes", shard(embeddings=plain(ROWS.tobytes()))
    yield "embeddings as a list of arrays", shard(embeddings=b"](" + ARRAY + ARRAY + b"e")
    yield "embeddings twice", honest[:-2] + text("embeddings") + b"Nu."
    yield "a model with escapes", shard(model=text("\x1b[2J\x1b]0;owned\x07\u202e"))
    yield "a model of 60 KB", shard(model=text("m" * 60_000))
    yield "a model that is an array", shard(model=ARRAY)
    yield "a rate that is NaN", shard(rate=b"G\x7f\xf8" + b"\0" * 6)
    yield "a rate beyond a float", shard(rate=number(1 << 2000))
    yield "a timestamp that is a tuple in itself", shard(timestamp=b"](h\0e")
    yield "trailing bytes", honest + b"x"
    yield "a second pickle", honest + honest
    yield "values left on the stack", b"\x80\x04K\1" + honest[2:]
    yield "nothing", b""
    yield "one byte", b"\x80"
    yield "only STOP", b"."
    yield "only a protocol", b"\x80\x04"
    yield "a list", b"\x80\x04]."
    yield "an array alone", b"\x80\x04" + ARRAY + b"."
    yield "zip magic", b"PK\3\4" + honest
    yield "an npy file", b"\x93NUMPY\1\0" + honest
    yield "gzip magic", b"\x1f\x8b\x08" + honest
    yield "HTML", b"<!doctype html><title>502 Bad Gateway</title>"
    yield "zeros", bytes(100_000)
    yield "ones", b"\xff" * 100_000


def _tricks():
    """What pickle.load reads in a way that is easily got wrong, or does not read at all, and no pickler writes."""
    raw = b"B\x80\0\0\0" + ROWS.tobytes()
    other = array(raw=b"B\x80\0\0\0" + (ROWS + 1).tobytes())
    dtype = dtype_of("f4")
    state = lambda order: b"(K\3" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"  # noqa: E731
    begin = b"cnumpy\ndtype\n" + text("f4")
    for name, described in {
        "set twice": dtype + state(">"),
        "set to no order": begin + b"\x89\x88\x87R" + state("|"),
        "set to this machine's order": begin + b"\x89\x88\x87R" + state("="),
        "set to an empty order": begin + b"\x89\x88\x87R" + state(""),
        "set to both orders": begin + b"\x89\x88\x87R" + state("<>"),
        "never set": begin + b"\x89\x88\x87R",
        "not copied": begin + b"\x89\x89\x87R" + state(">"),
        "without flags": begin + b"\x85R" + state(">"),
        "with an order in its name": dtype_of(">f4"),
        "of another size": dtype_of("f4", b"(K\3U\1<NNNK\x08K\x08K\0tb"),
        "with a subarray": begin
        + b"\x89\x88\x87R(K\3"
        + text("<")
        + plain(("f4", (1,)))
        + b"NN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\0tb",
        "with names": begin
        + b"\x89\x88\x87R(K\3"
        + text("<")
        + b"N"
        + plain(("a",))
        + b"N"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\0tb",
        "with fields": begin + b"\x89\x88\x87R(K\3" + text("<") + b"NN}" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb",
        "with flags": dtype_of("f4", b"(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\1tb"),
        "of an unknown version": dtype_of("f4", b"(K\x09U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"),
    }.items():
        yield f"dtype {name}", shard(embeddings=array(dtype=described))
    yield "dtype set after its array", shard(embeddings=array(dtype=dtype + b"q\x07"), extra=b"h\x07" + state(">"))
    for name, flag in {"None": b"N", "0": b"K\0", "2**64": number(1 << 64), "a tuple": b")"}.items():
        fortran = array().replace(plain(ROWS.dtype) + b"\x89", plain(ROWS.dtype) + flag)
        yield f"array whose order is {name}", shard(embeddings=fortran)
    for order in ("f", "c", "K", "A", "Fortran"):
        parts = raw + plain(ROWS.dtype) + plain(ROWS.shape) + text(order)
        yield (
            f"frombuffer in order {order}",
            shard(embeddings=call("numpy._core.numeric _frombuffer", b"(" + parts + b"t")),
        )
    parts = raw + plain(ROWS.dtype) + plain(ROWS.shape) + text("K") + plain((1, 0))
    yield "frombuffer with turned axes", shard(embeddings=call("numpy._core.numeric _frombuffer", b"(" + parts + b"t"))
    whole = b"(" + plain(ROWS.shape) + plain(ROWS.dtype) + raw
    for name, more in {"an offset": b"K\0", "None": b"N", "an order for an offset": text("F")}.items():
        yield f"array with {name}", shard(embeddings=call("numpy ndarray", whole + more + b"t"))
    yield "array begun with a shape", shard(embeddings=array().replace(b"K\0\x85C\1b", b"K\1\x85C\1b"))
    yield "array begun with another type", shard(embeddings=array().replace(b"C\1btR", b"C\1itR"))
    yield "array begun with more", shard(embeddings=array().replace(b"C\1btR", b"C\1bNtR"))
    yield "array of a kind that is none", shard(embeddings=array().replace(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"))
    yield "array whose shape is a list", shard(embeddings=array(shape=plain(list(ROWS.shape))))
    yield "array of a negative shape", shard(extra=array(shape=plain((-8, -4))))
    longer = b"B\x90\0\0\0" + ROWS.tobytes() + bytes(16)
    yield "array of more bytes than its shape has", shard(embeddings=array(raw=longer))
    yield "dict made of pairs", shard(extra=call("collections OrderedDict", b"]\x85"))
    yield "encoding of bytes", shard(embeddings=array(raw=call("_codecs encode", raw + text("latin1") + b"\x86")))
    yield "encoding without a codec", shard(embeddings=array(raw=call("_codecs encode", text("x" * 128) + b"\x85")))
    yield (
        "bytes of text without a codec",
        shard(embeddings=array(raw=call("builtins bytes", text("x" * 128) + b"\x85"))),
    )
    yield (
        "bytes of bytes with a codec",
        shard(embeddings=array(raw=call("builtins bytes", raw + text("latin1") + b"\x86"))),
    )
    yield "a start that is a number of 5,000 bytes", shard(start_index=b"\x8b\x88\x13\0\0" + b"\x7f" * 5000)
    yield "protocol 6", b"\x80\6" + shard()[2:]
    scalar = "numpy.core.multiarray scalar"
    swapped = b"cnumpy\ndtype\n" + text("i4") + b"\x89\x88\x87R" + state("|")
    yield "scalar of no order", shard(cluster_id=call(scalar, swapped + b"C\4\5\0\0\0\x86"))
    yield "scalar of a dtype that is none", shard(extra=call(scalar, b"NC\4\5\0\0\0\x86"))
    long = dtype_of("U2010", b"(K\3U\1<NNN" + number(8040) + b"K\4K\x08tb")
    padded = b"B" + struct.pack("<I", 8040) + "embeddings".encode("utf-32-le").ljust(8040, b"\0")
    yield "a long numpy text as a key", shard()[:-2] + call(scalar, long + padded + b"\x86") + other + b"u."
    for name, key in {
        "a list": b"]",
        "a dict": b"}",
        "a set": b"\x8f",
        "an array": ARRAY,
        "a name": b"cnumpy\ndtype\n",
    }.items():
        yield f"{name} as a key", shard(extra=b"}" + key + b"Ns")


TRICKS = dict(_tricks())
SHARDS = dict((*_globals(), *_arrays(), *_machine(), *_schema(), *_tricks()))


def _articles():
    good = plain(articles_of(3))
    yield "good", b"\x80\x04" + good + b"."
    item = lambda **values: b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"u"  # noqa: E731
    listed = lambda *items: b"\x80\x04](" + b"".join(items) + b"e."  # noqa: E731
    fine = {"title": text("t"), "id": b"K\1", "url": text("u")}
    for name in MODULES_THAT_RUN[::3]:
        yield f"calls {name}", listed(item(**fine, text=call(name, text("touch ran-code") + b"\x85")))
    for name, value in {
        "an array": ARRAY,
        "a date": call("datetime date", plain(b"\x07\xea\1\1") + b"\x85"),
        "a persistent id": b"Pid\n",
        "an extension": b"\x82\1",
        "an unknown opcode": b"\xff",
        "DUP": b"2",
        "BUILD": b"}b",
        "NEWOBJ": b")\x81",
        "a huge text": b"\x8d" + b"\xff" * 8,
        "text of 2**63": b"\x8d" + struct.pack("<Q", 1 << 63),
        "text of 2**62": b"\x8d" + struct.pack("<Q", 1 << 62),
        "text of 4 GB": b"X\xff\xff\xff\xff",
        "bytes of 2**63-1": b"\x8e" + struct.pack("<Q", (1 << 63) - 1),
        "a huge long": b"\x8b\xff\xff\xff\x7f",
        "deep lists": b"]" * 9_000 + b"a" * 8_999,
        "deep tuples": b")" + b"\x85" * 20_000,
        "a mark": b"(",
        "marks": b"(" * 20_000,
        "a missing memo entry": b"h\xfa",
        "a missing far memo entry": b"j\xff\xff\xff\xff",
        "a memo entry of 2**31": b"Nr\xff\xff\xff\x7f",
        "an underflow": b"\x87\x87\x87",
        "a frame of 2**64-1": b"\x95" + b"\xff" * 8 + b"N",
        "many values": b"](" + b"N" * 120_000 + b"e",
        "many memo entries": b"]" + b"\x94" * 120_000,
        "the list itself": b"\x94",
        "text that is not UTF-8": b"X\2\0\0\0\xff\xff",
        "a colliding set": b"\x8f(" + number((1 << 61) - 1) + b"\x90",
    }.items():
        yield f"a text that is {name}", listed(item(**fine, text=value))
        yield f"a title that is {name}", listed(item(**{**fine, "title": value}))
    for name, value in {"None": b"N", "a number": b"K\1", "a list": b"]", "bytes": plain(b"t"), "a dict": b"}"}.items():
        yield f"a title that is {name}", listed(item(**{**fine, "title": value}))
        yield f"a url that is {name}", listed(item(**{**fine, "url": value}))
    yield "a title with escapes", listed(item(**{**fine, "title": text("\x1b[2J\u202e")}))
    yield "a title of 10 MB", listed(item(**{**fine, "title": text("t" * 10_000_000)}))
    yield "no title", listed(item(id=b"K\1"))
    yield "numbers", listed(b"K\1K\2")
    yield "lists", listed(b"]]")
    yield "a dict", b"\x80\x04" + item(**fine) + b"."
    yield "a tuple", b"\x80\x04" + item(**fine) + b"\x85."
    yield "a number alone", b"\x80\x04K\1."
    yield "an append to a dict", b"\x80\x04}(" + item(**fine) + b"e."
    yield "a list appended to itself", b"\x80\x04]\x94h\0a."
    yield (
        "one article twenty thousand times",
        b"\x80\x04]\x94" + item(**fine) + b"\x94" + b"(" + b"h\1" * 20_000 + b"e" + b".",
    )
    yield "something after the end", b"\x80\x04" + good + b".x"
    yield "two pickles", (b"\x80\x04" + good + b".") * 2
    yield "no end", b"\x80\x04" + good
    yield "nothing", b""
    yield "zeros", bytes(100_000)
    yield "HTML", b"<!doctype html>"
    yield "JSON", b'[{"title": "t"}]'


ARTICLES = dict(_articles())
