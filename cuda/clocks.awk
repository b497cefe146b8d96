# Counts of a kernel's inner loop and the clocks that they take, from its disassembly:
#
#     nvdisasm -c -gi -hex CUBIN | awk -f cuda/clocks.awk -v object=index/4_fused cuda/clocks.def -
#
# clocks.def says which loops and which sections are looked at, what they may take, and what an instruction takes of
# Hopper. Prints a line each, with csv=1 as cuda/clocks.csv has it, of a section the clocks of a warp alone as `turn`, from
# "-"; exits 1 if one takes more than its design or is not found.
#
# Clocks of a resource are of one turn of the loop by all warps of an SM. A quarter of the SM issues one instruction a
# clock, one in two to the unit for comparisons and integers, and has one warp of each warpgroup. `alone` is one warp
# without company: the machine code says how long each instruction holds the next up, and which results it waits for.
# Branches are not followed: a section that is rarely entered is taken out of the loop, and counted as often as
# clocks.def expects it.

function hex(text, i, v) {
    for (i = 1; i <= length(text); i++)
        v = v * 16 + index("0123456789abcdef", substr(text, i, 1)) - 1
    return v
}
function bits(v, from, n) { return int(v / 2 ^ from) % 2 ^ n }
function max(a, b) { return a > b ? a : b }
function min(a, b) { return a < b ? a : b }
function fail(text) { print "clocks: " text; bad = 1 }

# ---- Tables --------------------------------------------------------------------------------------------------------

FILENAME != "-" && (/^#/ || !NF) { next }
FILENAME != "-" && $1 == "latency" { latency[$2] = $3; next }
FILENAME != "-" && $1 == "rate" { rate[$2] = $3; next }
FILENAME != "-" && ($1 == "loop" || $1 == "part") {
    if ($3 == object) {
        row[++rows] = $0
        wants[rows] = $4
    }
    next
}
FILENAME != "-" { fail(FILENAME ": expected a line of loop, part, latency or rate, found '" $0 "'"); exit }

# ---- One function's instructions -----------------------------------------------------------------------------------

/^\.text\./ { flush_function(); name = $0; sub(/^\.text\./, "", name); sub(/:.*/, "", name); n = 0; next }
/^\$__/ { lines = "" } # of the compiler's own: a division's rare cases, which belong to no line
/^\.L_/ { label = $1; sub(/:$/, "", label); at[label] = n + 1; next }
/^[ \t]*\/\/## File/ {
    if (!in_lines)
        lines = ""
    in_lines = 1
    text = $0
    while (match(text, /"[^"]*", line [0-9]+/)) {
        place = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        file = place; sub(/^"/, "", file); sub(/", line.*/, "", file); sub(/.*\//, "", file)
        sub(/.*line /, "", place)
        lines = lines " " file ":" place
    }
    next
}
/^[ \t]+\/\*[0-9a-f]+\*\/ / {
    in_lines = 0
    text = $0
    sub(/^[ \t]+\/\*[0-9a-f]+\*\/[ \t]*/, "", text)
    sub(/[ \t]*;.*/, "", text)
    gsub(/^\{[ \t]*/, "", text)
    code[++n] = text
    from[n] = lines
    next
}
n > 0 && /^[ \t]+\/\* 0x[0-9a-f]+ \*\/$/ {
    match($0, /0x[0-9a-f]+/)
    word[n] = hex(substr($0, RSTART + 2, 6)) # bits 104..127 of the instruction
}
END { flush_function(); if (!rows) exit bad; for (r = 1; r <= rows; r++) if (!(r in done)) fail(object ": no function has " wants[r]); exit bad }

function flush_function(r) {
    find_aside()
    for (r = 1; r <= rows; r++)
        if (n && !(r in done) && name ~ wants[r]) {
            done[r] = 1
            split(row[r], field)
            if (field[1] == "loop") loop(field[2], field)
            else part(field[2], field)
        }
    split("", at); n = 0
}

# A shuffle that lanes come to one by one is done again, behind the function's end: lanes of these kernels come together.
function find_aside(i, k, first, alone) {
    split("", aside); first = 0; alone = 0
    for (i = 1; i <= n; i++)
        if (opcode(i) == "EXIT") first = i + 1
    for (i = first; first && i <= n; i++) {
        if (opcode(i) ~ /^WARPSYNC/) alone = 1
        if (code[i] !~ /^BRA/) continue
        for (k = first; alone && k <= i; k++) aside[k] = 1
        first = i + 1; alone = 0
    }
}

# Sections are lines between two marks "// [TAG]" of a file of cuda/, which may stand there more than once.
function section(tag, path, line, i, place, marks) {
    if (tag in marked) return
    split(tag, place, ":")
    path = "cuda/" place[1]; file = place[1]; sub(/.*\//, "", file)
    while ((getline line < path) > 0) {
        i++
        if (index(line, "// [" place[2] "]")) marks++
        else if (marks % 2) within[tag, file ":" i] = 1
    }
    close(path)
    marked[tag] = marks
    if (!marks || marks % 2) fail(path ": expected [" place[2] "] in pairs")
}
function in_sections(i, tags, k, tag) {
    for (k = split(tags, tag, ","); k > 0; k--)
        if (in_section(i, tag[k])) return 1
    return 0
}
function in_section(i, tag, k, all) {
    if (tag == "-" || i in aside || opcode(i) ~ /GMMA/) return 0 # the compiler may give a product its neighbour's line
    section(tag)
    for (k = split(from[i], all, " "); k > 0; k--)
        if ((tag, all[k]) in within) return 1
    return 0
}

# ---- Costs ---------------------------------------------------------------------------------------------------------

function unconditional(i, text) {
    text = code[i]
    sub(/^@!?U?P[0-9T]+ +/, "", text)
    return text
}
function opcode(i, text) {
    text = unconditional(i)
    sub(/[ ,].*/, "", text)
    return text
}
function base(op) { sub(/\..*/, "", op); return op }
function bytes_of(op) { return op ~ /\.128/ ? 16 : op ~ /\.64/ ? 8 : op ~ /\.[US]?16/ ? 2 : op ~ /\.[US]8/ ? 1 : 4 }
# Keys of 64 x N x K products: N, and whether the left operand comes from shared memory.
function columns_of(op, shape) { split(op, shape, /[.x]/); return shape[3] }

function add_costs(i, op, b) {
    op = opcode(i); b = base(op)
    count["instructions"]++
    if (b ~ /^(FMNMX|FSETP|FSEL|ISETP|LOP3|PLOP3|SHF|SEL|VIMNMX3?|LEA|PRMT|IADD3|VIADD|VIADDMNMX|F2FP|MOV)$/)
        count["alu"] += 2
    if (b ~ /^[HIQ]GMMA$/) {
        count["tensor"] += columns_of(op) / 2 # 64 x N x 16 multiply-adds of bf16, as many bytes of int8, at 4096 a clock
        count["operands"] += columns_of(op) / 4 + (code[i] ~ /, gdesc.*gdesc/ || code[i] !~ /R[0-9]+, R[0-9]+, gdesc/ ? 16 : 0)
    }
    if (b == "HMMA") count["tensor"] += rate["hmma"] / 4
    if (b == "MUFU") count["mufu"] += rate["mufu"]
    if (b ~ /^(LDS|STS|ATOMS)$/) count["shared"] += 4 * 32 * bytes_of(op) / rate["shared"]
    if (b ~ /^(LDSM|STSM)$/) count["shared"] += 4 * 128 * (op ~ /\.4$/ ? 4 : op ~ /\.2$/ ? 2 : 1) / rate["shared"]
    if (b == "LDG") count["loads"]++
    if (b == "SHFL") count["shuffles"]++
}

# One warp's clocks for its instructions, in order, and the most loads from memory that are under way at once.
function begin_alone() { clock = 0; flying = most_flying = 0; split("", ready); split("", load_on) }
function step_alone(i, v, stall, mask, write, read, k, b) {
    v = word[i]
    stall = bits(v, 1, 4); write = bits(v, 6, 3); read = bits(v, 9, 3); mask = bits(v, 12, 6)
    b = base(opcode(i))
    for (k = 0; k < 6; k++)
        if (bits(mask, k, 1)) {
            clock = max(clock, ready[k])
            flying -= load_on[k]; load_on[k] = 0
        }
    if (write < 6) {
        k = (b ":" source) in latency ? b ":" source : b
        ready[write] = max(ready[write], clock + (k in latency ? latency[k] : latency["other"]))
        if (b == "LDG") { load_on[write]++; flying++; most_flying = max(most_flying, flying) }
    }
    if (read < 6) ready[read] = max(ready[read], clock + latency["read"])
    if (opcode(i) ~ /^MEMBAR.*GPU/) clock += latency["MEMBAR"] # waits for what was stored
    else if (b == "UCGABAR_WAIT") clock += latency[b] # ... and this for the last of its cluster
    else clock += max(stall, 1)
}

# ---- Lines ---------------------------------------------------------------------------------------------------------

# The smallest loop around most instructions `marker`; all of the function for "-", and if none is in one.
function find_loop(marker, i, k, to, target, here, best, last_exit) {
    loop_from = 1; loop_to = n; best = 0
    if (marker == "-") return
    for (i = 1; i <= n; i++)
        if (opcode(i) == "EXIT") last_exit = i # what follows was moved out of the way, and comes back
    for (i = 1; i <= last_exit; i++)
        if (opcode(i) ~ /^BRA/ && match(code[i], /\.L_x?_?[0-9]+/)) {
            target = substr(code[i], RSTART, RLENGTH)
            to = at[target]
            if (!to || to > i) continue
            here = 0
            for (k = to; k <= i; k++) here += unconditional(k) ~ ("^" marker)
            if (here > best || (here && here == best && i - to < loop_to - loop_from)) {
                best = here; loop_from = to; loop_to = i
            }
        }
}
function judge(is, may, what) { if (is > may + 0.5) over = over " " what }

# part NAME OBJECT FUNCTION TAG COPIES FROM INSTRUCTIONS CLOCKS
function part(label, f, i) {
    split("", count)
    begin_alone()
    source = f[7]
    for (i = 1; i <= n; i++)
        if (in_section(i, f[5])) { add_costs(i); step_alone(i) }
    source = ""
    if (!count["instructions"]) { fail(object ": nothing of " f[5]); return }
    over = ""
    judge(count["instructions"] / f[6], f[8], "instructions")
    judge(clock / f[6], f[9], "clocks")
    if (csv) printf("%s,0,0,0,0,0,-,%.0f,%.0f\n", label, clock / f[6], count["instructions"] / f[6])
    else printf("%-26s %6.0f instructions (%d), alone %5.0f clocks (%d)%s\n", label, count["instructions"] / f[6], f[8],
           clock / f[6], f[9], (over ? "  OVER:" over : ""))
    if (over) bad = 1
}

# loop NAME OBJECT FUNCTION MARKER WARPGROUPS BYTES RATE RARE COPIES OFTEN HIDDEN BOUND TENSOR ISSUE MUFU SHARED MEMORY TURN
function loop(label, f, i, rare, rare_clock, hot, alone, own, w, c, most, which, k, text, rare_tags, rare_tag) {
    find_loop(f[5])
    split(f[9], rare_tags, ","); rare_tag = rare_tags[1]
    split("", count); begin_alone()
    for (i = 1; i <= n; i++)
        if (in_section(i, rare_tag)) { add_costs(i); step_alone(i) }
    rare = max(count["instructions"], count["alu"]) / f[10]; rare_clock = clock / f[10]
    split("", count); begin_alone()
    for (i = loop_from; i <= loop_to; i++)
        if (!in_sections(i, f[9])) { add_costs(i); step_alone(i) }
    w = f[6]; hot = count["instructions"]; own = count["tensor"]
    alone = clock + f[11] * rare_clock
    c["tensor"] = w * own
    c["issue"] = w * (max(hot, count["alu"]) + f[11] * rare)
    c["mufu"] = w * count["mufu"]
    c["shared"] = w * (count["shared"] + count["operands"])
    c["memory"] = f[7] / rate[f[8]]
    c["turn"] = own + alone - min(f[12] * alone, f[12] * own)
    split("tensor issue mufu shared memory turn", which, " ")
    most = "tensor"; over = ""; text = ""
    for (k = 1; k <= 6; k++) {
        if (c[which[k]] > c[most]) most = which[k]
        judge(c[which[k]], f[13 + k], which[k])
        text = text sprintf(" %6.0f", c[which[k]])
    }
    if (!index(f[13], most)) over = over " bound"
    if (csv) printf("%s,%.0f,%.0f,%.0f,%.0f,%.0f,%s,%.0f,%.0f\n", label, c["tensor"], c["issue"], c["mufu"], c["shared"], f[7], f[8], c["turn"], hot)
    else printf("%-26s %5d %5d %s  %-7s %s\n", label, hot, most_flying, text, most, (over ? "OVER:" over : "ok"))
    if (over) bad = 1
}
