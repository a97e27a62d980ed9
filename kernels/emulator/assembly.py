"""Inline PTX as C++: ``asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));`` becomes a call of a function of assembly.cuh.

The result is one expression, on the line where the asm began: its operands as variables of their own, a call for
each instruction, and the outputs stored. An instruction's first words and its types decide which function is called.
"""

import re

_TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|(?P<asm>\b(?:__asm__|__asm|asm)\b\s*(?:(?:volatile|__volatile__)\s*)*)\(',
    re.DOTALL,
)
_STRING = re.compile(r'"((?:\\.|[^"\\\n])*)"')
_OPERAND = re.compile(r'"([=+]?)&?(\w)"\s*\(')
_TYPE = {"r": "unsigned", "h": "unsigned short", "l": "unsigned long long", "f": "float", "d": "double"}
_REGISTER = {
    "pred": "bool",
    "f32": "float",
    "f64": "double",
    "16": "unsigned short",
    "32": "unsigned",
    "64": "unsigned long long",
}
_SPECIAL = {
    "%laneid": "emulator::self->lane", "%lanemask_lt": "emulator::ptx::lanes_below()",
    "%lanemask_le": "(2 * emulator::ptx::lanes_below() + 1)", "%lanemask_gt": "~(2 * emulator::ptx::lanes_below() + 1)",
    "%lanemask_ge": "~emulator::ptx::lanes_below()", "%lanemask_eq": "(1u << emulator::self->lane)", "%smid": "0u",
    "%cluster_ctarank": "unsigned(emulator::block_rank)", "%cluster_nctarank": "unsigned(emulator::cluster_blocks)",
    **{f"%cluster_ctaid.{axis}": f"emulator::block_in_cluster().{axis}" for axis in "xyz"},
    **{f"%cluster_nctaid.{axis}": f"emulator::cluster_size.{axis}" for axis in "xyz"},
    **{f"%{ptx}.{axis}": f"({cuda}.{axis} / emulator::cluster_size.{axis})" for ptx, cuda in
       (("clusterid", "blockIdx"), ("nclusterid", "gridDim")) for axis in "xyz"},
    "%clock": "0u", "%clock64": "0ull", "%globaltimer": "0ull", "%warpid": "emulator::ptx::warp()",
    **{f"%{ptx}.{axis}": f"{cuda}.{axis}" for ptx, cuda in
       (("tid", "threadIdx"), ("ctaid", "blockIdx"), ("ntid", "blockDim"), ("nctaid", "gridDim")) for axis in "xyz"},
}  # fmt: skip
# Words of an instruction that concern speed and caches, not its result.
_IDLE = re.compile(
    r"rn|ftz|sync|aligned|to|weak|nc|cta|gpu|sys|L1|L2|cache_hint|no_allocate|noftz|evict_\w+|\d+B|ca|cg|cs|lu|cv|wb|wt|volatile|relaxed"
)
NO_STRING = "inline PTX that is not a string as it stands"
_WHOLE = re.compile(r"[us]\d+")


class _Unknown(Exception):
    """Inline PTX that the emulator does not support."""


def translated(text: str) -> str:
    """A kernel's text with C++ in place of its inline PTX; what is unknown is a finding where a kernel reaches it."""
    out, at = [], 0
    while found := _TOKEN.search(text, at):
        end = found.end()
        out.append(text[at : found.start()])
        if found["asm"] is None:
            out.append(found[0])
        else:
            end = _closed(text, end)
            try:
                said = _Statement(text[found.end() : end - 1]).as_cpp()
            except _Unknown as unknown:
                why = re.sub(r'[%"\\]', "", str(unknown))
                said = f'emulator::ptx::unknown("{why}")'
            out.append(said + "".join(re.findall(r"\\?\n", text[found.start() : end])))
        at = end
    return "".join(out) + text[at:]


def _closed(text: str, at: int) -> int:
    """After the bracket that closes the one before ``at``; the end if none does, which the compiler will report."""
    depth = 1
    for token in re.compile(r'"(?:\\.|[^"\\\n])*"|[()]').finditer(text, at):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


class _Statement:
    """One asm statement."""

    def __init__(self, inside: str) -> None:
        inside = re.sub(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', lambda m: m[1] or " ", inside, flags=re.DOTALL)
        parts = [inside]  # the program, outputs, inputs, clobbers
        depth, begin = 0, 0
        for token in re.finditer(r'"(?:\\.|[^"\\\n])*"|[()]|:', inside):
            depth += {"(": 1, ")": -1}.get(token[0], 0)
            if token[0] == ":" and depth == 0:
                parts[-1:] = [inside[begin : token.start()], inside[token.end() :]]
                begin = token.end()
        if _STRING.sub("", parts[0]).replace("\\\n", "").strip():
            raise _Unknown(f"{NO_STRING}: {parts[0].strip()[:80]}")
        program = "".join(_STRING.findall(parts[0]))
        self.operands: list[tuple[str, str, str]] = []  # "=", "+" or "", the letter, the expression
        for part in parts[1:3]:
            while operand := _OPERAND.search(part):
                how, letter = operand.groups()
                end = _closed(part, operand.end())
                self.operands.append((how, letter, part[operand.end() : end - 1].strip()))
                part = part[end:]
        self.program = program.replace("\\n", "\n").replace("\\t", "\t").replace("%%", "%")
        self.registers: set[str] = set()
        self.labels: list[str] = []
        self.in_place: set[int] = set()  # operands that change after the statement: the sums of wgmma

    def as_cpp(self) -> str:
        said = re.sub(r"//.*|/\*[\s\S]*?\*/|\s", " ", self.program)
        body = "".join(self._statement(s.strip()) for s in said.split(";"))
        before, after = "", ""
        for k, (how, letter, expression) in enumerate(self.operands):
            if k in self.in_place:
                continue
            type_ = "const auto" if letter in "ni" else _TYPE.get(letter)
            if type_ is None:
                raise _Unknown(f"inline PTX with an operand of the kind {letter}")
            given = expression if letter in "ni" else f"emulator::ptx::in<{type_}>({expression})"
            before += f"{type_} emulator_{k} = {given if how != '=' else '{}'}; "
            after += f"emulator::ptx::out({expression}, emulator_{k}); " if how else ""
        labels = f"__label__ {', '.join(self.labels)}; " if self.labels else ""
        return f"({{ {labels}{before}{body}{after}}})"

    def _statement(self, said: str) -> str:
        said = re.sub(r"^(?:[{}]\s*)+(?=[.@\w])|^[{}\s]+$", "", said)
        if not said:
            return ""
        if label := re.match(r"(\w+)\s*:\s*", said):
            self.labels.append(label[1])
            return f"{label[1]}: {self._statement(said[label.end() :]) or '(void)0; '}"
        if said.startswith(".reg"):
            kind, names = re.match(r"\.reg\s*\.(\w+)\s*(.*)", said).groups()  # type: ignore[union-attr]
            found: list[str] = []
            for name in re.split(r"[\s,]+", names.strip()):
                several = re.fullmatch(r"(%?\w+)<(\d+)>", name)
                found += [f"{several[1]}{i}" for i in range(int(several[2]))] if several else [name]
            self.registers |= set(found)
            type_ = _REGISTER.get(kind) or _REGISTER.get(kind[1:])
            if type_ is None:
                raise _Unknown(f"inline PTX with a register of the kind {kind}")
            return f"{type_} {', '.join(self._name(n) + ' = {}' for n in found)}; "
        if condition := re.match(r"@(!?)(%?\w+)\s+", said):
            return f"if ({condition[1]}{self._name(condition[2])}) {{ {self._statement(said[condition.end() :])}}} "
        opcode, rest = re.fullmatch(r"([\w.:]*)\s*(.*)", said, re.DOTALL).groups()  # type: ignore[union-attr]
        if opcode in ("bra", "bra.uni"):
            return f"goto {rest.strip()}; "
        if opcode.startswith(("cp.async.bulk.", "cp.reduce.async.bulk.")):
            return self._bulk(opcode, _apart(rest))
        if opcode.startswith("wgmma.mma_async."):
            return self._product(opcode, _apart(rest))
        name = _function(opcode)
        if name is None:
            raise _Unknown(f"{opcode} is not among the inline PTX that the emulator has")
        words = opcode.split(".")
        arguments = self._arguments(rest)[: -1 if "L2::cache_hint" in words else None]
        if (count := _PRODUCTS.get(name.removeprefix("mma_"))) not in (None, len(arguments)):
            raise _Unknown(f"{opcode} has {count} registers, not {len(arguments)}")
        said = f"emulator::ptx::{name}({', '.join(arguments)}); "
        if words[0] in ("atom", "red", "ld", "st"):  # a release is a fence before, an acquire one after
            fence = f"emulator::ptx::fence<{str('cta' not in words).lower()}>(); "
            if {"release", "acq_rel"} & set(words):
                said = fence + said
            if {"acquire", "acq_rel"} & set(words):
                said += fence
        return said

    def _bulk(self, opcode: str, operands: list[str]) -> str:
        """A copy by TMA: of a box, whose coordinates are within the map's brackets, or of bytes, or a wait for stores."""
        words = re.split(r"\.|::", opcode)
        if "prefetch" in words:
            return ""
        if words[3:] in (["commit_group"], ["wait_group"], ["wait_group", "read"]):
            return f"emulator::ptx::bulk_{words[3].partition('_')[0]}({', '.join(map(self._value, operands))}); "
        spaces = [w for w in words if w in ("shared", "global")]
        box = [list(map(self._value, _apart(o.strip("[]{} ")))) for o in operands]
        loads = spaces == ["shared", "global"] and "mbarrier" in words
        tiles = not {"im2col_no_offs", "gather4", "scatter4"} & set(words)
        how = next((w.upper() for w in words if w in _REDUCTIONS), "COPIED")
        if {"inc", "dec"} & set(words) or (how == "COPIED") != (words[1] == "async"):
            raise _Unknown(f"{opcode} is not among the inline PTX that the emulator has")

        def ranks(rest: list[list[str]]) -> str:
            return rest[0][0] if "multicast" in words else "1u << emulator::block_rank"

        def axes(at: list[str]) -> str:
            return f"{{{', '.join(f'int({a})' for a in at)}}}"

        if "tensor" in words and loads and tiles:
            (to,), (map_, *at), (barrier,), *more = box
            if "im2col" in words and len(at) == 4 and "multicast" not in words:
                return f"emulator::ptx::tma_load_windows({', '.join([to, map_, barrier, *at, *more[0]])}); "
            if "im2col" not in words:
                return f"emulator::ptx::tma_load({to}, {map_}, {barrier}, {ranks(more)}, {axes(at)}); "
        elif "tensor" in words and spaces == ["global", "shared"] and tiles and "im2col" not in words:
            return f"emulator::ptx::tma_store<emulator::{how}>({box[0][0]}, {box[1][0]}, {axes(box[0][1:])}); "
        elif "tensor" not in words and loads:
            return f"emulator::ptx::bulk_load_bytes({box[0][0]}, {box[1][0]}, {box[3][0]}, {box[2][0]}, {ranks(box[4:])}); "
        elif "tensor" not in words and spaces == ["shared", "shared"] and how == "COPIED":
            return f"emulator::ptx::bulk_send_bytes({box[0][0]}, {box[1][0]}, {box[3][0]}, {box[2][0]}); "
        elif "tensor" not in words and spaces == ["global", "shared"]:
            number = "NONE" if how == "COPIED" else _REDUCED.get(words[-1], "NONE")
            return f"emulator::ptx::bulk_store_bytes<emulator::{how}, emulator::{number}>({box[0][0]}, {box[1][0]}, {box[2][0]}); "
        raise _Unknown(f"{opcode} is not among the inline PTX that the emulator has")

    def _product(self, opcode: str, operands: list[str]) -> str:
        """A wgmma, whose sums change where they are, since they do later."""
        found = re.fullmatch(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k\d+\.(\w+)\.(\w+)\.(\w+)", opcode)
        columns, *types = found.groups() if found else ("", "")
        kinds = [_FACTORS.get(t) for t in types]
        if None in kinds:
            raise _Unknown(f"{opcode} is not among the inline PTX that the emulator has")
        sums = [int(v.strip(" %")) for v in operands[0].strip("{} ").split(",")]
        self.in_place |= set(sums)
        places = ", ".join(f"emulator::ptx::sum({self.operands[k][2]})" for k in sums)
        of_a = [self._value(v) for v in operands[1].strip("{} ").split(",")]
        b, add, *more = map(self._value, operands[2:])
        in_registers = len(of_a) == 4
        a = f"const unsigned emulator_a[] = {{{', '.join(f'emulator::ptx::as<unsigned>({v})' for v in of_a)}}}; "
        across = more[2:] if len(more) > 2 else ["0", "0"]
        said = ["emulator_sums", *(("emulator_a", "0") if in_registers else ("nullptr", of_a[0])), b, f"bool({add})"]
        said += [*(more[:2] or ["1", "1"]), *(["0"] if len(across) == 1 else []), *across]
        name = f"wgmma<{', '.join(f'emulator::{k}' for k in kinds)}, {columns}>"
        return f"{{ unsigned* const emulator_sums[] = {{{places}}}; {a * in_registers}emulator::ptx::{name}({', '.join(said)}); }} "

    def _name(self, register: str) -> str:
        return f"ptx_{register.lstrip('%')}"

    def _arguments(self, text: str) -> list[str]:
        """All operands, those of groups and addresses one by one; an address comes first, whatever its place in PTX."""
        addresses = [self._value(a) for a in re.findall(r"\[([^\]]*)\]", text)]
        others = re.sub(r"\[[^\]]*\]|[{}]", "", text.replace("|", ","))  # of a register and a predicate: %r|%p
        return addresses + [self._value(v) for v in others.split(",") if v.strip()]

    def _value(self, said: str) -> str:
        said = said.strip()
        if offset := re.fullmatch(r"(.*\S)\s*\+\s*(\w+)", said):
            return f"({self._value(offset[1])} + {self._value(offset[2])})"
        if operand := re.fullmatch(r"%(\d+)", said):
            return f"emulator_{operand[1]}"
        if said in self.registers:
            return self._name(said)
        if said in _SPECIAL:
            return _SPECIAL[said]
        if bits := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", said):
            return f"emulator::ptx::as<float>(0x{bits[1]}u)"
        if said == "_":
            return "emulator::ptx::nowhere"
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+U?|\d+(\.\d*)?)", said):
            return said
        raise _Unknown(f"inline PTX with the operand {said}")


def _apart(text: str) -> list[str]:
    """What commas divide, outside of braces and brackets."""
    return [p.strip() for p in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|[^,\[{])+", text) if p.strip()]


def _function(opcode: str) -> str | None:
    """The function of assembly.cuh, with its template's arguments, that does what an instruction does; None if none does."""
    base, *words = re.split(r"\.|::", opcode)
    more = [w for w in words if not _IDLE.fullmatch(w)]
    kinds = [w for w in more if w in _TYPES]
    types = [_TYPES[k] for k in kinds]
    others = [w for w in more if w not in kinds]  # ld.global.v4.f32: global, v4
    first = types[0] if types else ""
    shared = str("shared" in others).lower()
    count = next((w[1] for w in others if re.fullmatch(r"[vx][1248]", w)), "1")
    match base:
        case "ldmatrix" | "stmatrix":
            return f"{base}<{count}, {str('trans' in others).lower()}>"
        case "shfl":
            return f"shfl_{others[0]}" if "sync" in words and others[0] in ("up", "down", "bfly", "idx") else None
        case "mma":
            end = "_satfinite" if "satfinite" in others else ""
            name = f"{others[0]}_{'_'.join(kinds)}{end}"
            rest = [w for w in others[1:] if w != "satfinite"]
            return f"mma_{name}" if rest == ["row", "col"] and name in _PRODUCTS else None
        case "movmatrix":
            return "movmatrix" if others == ["m8n8", "trans"] else None
        case "cp":
            return _COPIES.get(".".join(others))
        case "st" if "async" in others:
            return f"st_async<{first}>" if "shared::cluster" in opcode and "complete_tx" in others else None
        case "ld" | "st" if "shared::cluster" in opcode:
            return f"{base}_cluster<{first}>" if {"shared", "cluster", f"v{count}"} >= set(others) else None
        case "ld" | "st":
            return (
                f"{base}_strong<{first}, {shared}, {str('cta' not in words).lower()}>"
                if {"acquire", "release", "relaxed"} & set(words) and count == "1"
                else None
                if {"acquire", "release", "param"} & set(others)
                else f"{base}<{first}, {count}, {shared}>"
            )
        case "red" if "async" in others:
            how = others[-1] if others[-1] in _REDUCTIONS else ""
            return f"red_async<{first}, emulator::{how.upper()}>" if how and "complete_tx" in others else None
        case "red" | "atom":
            name, everywhere = others[-1], str("cta" not in words).lower()
            known = ("add", "min", "max", "or", "and", "xor", "exch", *["cas"] * (base == "atom"))
            return f"{base}_{name}<{first}, {shared}, {everywhere}>" if name in known else None
        case "cvta":
            return "cvta_shared" if "shared" in others else f"mov<{first}>"
        case "cvt":
            return _conversion(kinds, types, [w for w in others if w != "satfinite"])
        case "setp":
            name = "_".join(others)
            return (
                f"setp_{name}<{first}>"
                if name in ("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs")
                else None
            )
        case "barrier" if "cluster" in others:
            arrives = f"cluster_arrive<{str('relaxed' in words).lower()}>"
            return {"arrive": arrives, "wait": "cluster_wait"}.get(others[1])
        case "bar" | "barrier":
            return {"": "bar_sync", "arrive": "bar_arrive", "warp": "bar_warp_sync"}.get(".".join(others))
        case "membar" | "fence":
            if "proxy" in others:
                return "fence_proxy" if "async" in others else None
            if "mbarrier_init" in others:
                return "fence_mbarrier_init"
            return f"fence<{str('cta' not in words).lower()}>"
        case "mbarrier":
            function = _OF_BARRIERS.get(
                ".".join(w for w in others if w not in ("shared", "cluster", "release", "acquire"))
            )
            of_cluster = "cluster" in opcode.split(".")  # and not shared::cluster
            return f"{function}<{str(of_cluster).lower()}>" if function == "mbarrier_wait" else function
        case "prefetch" | "prefetchu" | "griddepcontrol" | "nanosleep" | "discard" | "createpolicy":
            return "nothing"
        case "mapa":
            return "mapa" if "shared" in others and kinds == ["u32"] else None
        case "elect":
            return "elect"
        case "activemask":
            return "activemask"
        case "vote" | "match" if (
            others in (["ballot"], ["any"], ["all"]) and "sync" in words and f"{base}.{others[0]}" != "match.all"
        ):
            return f"{base}_{others[0]}"
        case "redux" if len(others) == 1 and others[0] in _REDUCTIONS:
            return f"redux_{others[0]}<{first}>"
        case "setmaxnreg":
            return f"setmaxnreg<{str(others == ['inc']).lower()}>"
        case "wgmma":
            return f"wgmma_{others[0]}"
        case "trap":
            return "trap"
    name = ".".join([base, *(w for w in others if w not in ("approx", "full"))])
    return f"{_PLAIN[name]}<{first}>" if name in _PLAIN and types else None


def _conversion(kinds: list[str], types: list[str], how: list[str]) -> str | None:
    """Of a cvt: two numbers in one register, tf32, a float to a whole number, rounded as the word says, or any other."""
    if {"e4m3x2", "e5m2x2"} & set(kinds):
        of_pair = kinds[0] == "f16x2" or kinds[1:] == ["f32"]
        return f"cvt_{'_'.join(k for k in kinds if k != 'f32')}" if of_pair and not how else None
    if kinds[0] in ("f16x2", "bf16x2"):
        return None if how else f"cvt_{kinds[0]}"
    if kinds[0] == "tf32":
        return "cvt_tf32" if how == ["rna"] else None
    if how[:1] in (["rzi"], ["rni"], ["rmi"], ["rpi"]) and how[1:] in ([], ["sat"]) and kinds[0][0] in "us":
        return f"cvt_{how[0]}<{types[0]}, {types[1]}>"  # a float that does not fit is set to what does in any case
    if how == ["sat"] and _WHOLE.fullmatch(kinds[0]) and _WHOLE.fullmatch(kinds[1]) and kinds[1][1:] != "64":
        return f"cvt_sat<{types[0]}, {types[1]}>"
    return None if how else f"cvt<{types[0]}, {types[1]}>"


_COPIES = {
    "async.shared.global": "cp_async", "async.commit_group": "cp_async_commit", "async.wait_group": "cp_async_wait",
    "async.wait_all": "cp_async_wait_all", "async.mbarrier.arrive.shared": "cp_async_arrive<false>",
    "async.mbarrier.arrive.noinc.shared": "cp_async_arrive<true>",
}  # fmt: skip
_OF_BARRIERS = {
    "init": "mbarrier_init",
    "inval": "mbarrier_inval",
    "arrive": "mbarrier_arrive",
    "expect_tx": "mbarrier_expect_tx",
    "arrive.expect_tx": "mbarrier_arrive_expect_tx",
    **{f"{how}_wait{of}": "mbarrier_wait" for how in ("try", "test") for of in ("", ".parity")},
}
_FACTORS = {
    "f32": "F32", "f16": "FP16", "bf16": "BF16", "tf32": "TF32", "e4m3": "E4M3", "e5m2": "E5M2", "s8": "S8", "u8": "U8", "s32": "S32",
}  # fmt: skip
_REDUCTIONS = ("add", "min", "max", "and", "or", "xor")
_REDUCED = {
    "f16": "FP16", "bf16": "BF16", "f32": "F32", "f64": "F64", "s32": "S32", "u32": "U32", "b32": "U32", "s64": "S64", "u64": "U64",
    "b64": "U64",
}  # fmt: skip
_TYPES = {
    "pred": "bool", "b8": "unsigned char", "u8": "unsigned char", "s8": "signed char", "b16": "unsigned short",
    "u16": "unsigned short", "s16": "short", "b32": "unsigned", "u32": "unsigned", "s32": "int", "b64": "unsigned long long",
    "u64": "unsigned long long", "s64": "long long", "f32": "float", "f64": "double", "f16": "emulator::ptx::F16",
    "bf16": "emulator::ptx::BF16", "f16x2": "emulator::ptx::Two<emulator::ptx::F16>", "bf16x2": "emulator::ptx::Two<emulator::ptx::BF16>",
    "tf32": "unsigned", "e4m3x2": "unsigned short", "e5m2x2": "unsigned short", "e4m3": "unsigned", "e5m2": "unsigned",
}  # fmt: skip
_PLAIN = {
    name: f"{name}_" if name in ("and", "or", "xor", "not") else name.replace(".", "_")
    for name in (
        "mov", "add", "sub", "mul", "mul.lo", "mul.hi", "mul.wide", "mad.lo", "fma", "div", "min", "max", "neg", "abs", "rcp",
        "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh", "and", "or", "xor", "not", "shl", "shr", "lop3", "prmt", "bfe",
        "bfi", "selp", "popc", "clz", "brev", "shf.l.wrap", "shf.r.wrap", "shf.l.clamp", "shf.r.clamp",
    )
}  # fmt: skip
_PRODUCTS = {  # and how many registers they have
    **dict.fromkeys(("m16n8k16_f32_bf16_bf16_f32", "m16n8k16_f32_f16_f16_f32", "m16n8k8_f32_tf32_tf32_f32", "m16n8k32_s32_s8_s8_s32",
                     "m16n8k32_s32_s8_s8_s32_satfinite", "m16n8k32_f32_e4m3_e4m3_f32", "m16n8k32_f32_e5m2_e5m2_f32"), 14),
    **dict.fromkeys(("m16n8k8_f32_bf16_bf16_f32", "m16n8k8_f32_f16_f16_f32", "m16n8k4_f32_tf32_tf32_f32", "m16n8k16_s32_s8_s8_s32",
                     "m16n8k16_s32_s8_s8_s32_satfinite", "m16n8k16_f32_e4m3_e4m3_f32", "m16n8k16_f32_e5m2_e5m2_f32"), 11),
    "m16n8k16_f16_f16_f16_f16": 10, "m16n8k8_f16_f16_f16_f16": 7,
}  # fmt: skip
