// Complete blocks of a cache's window to codes, scales and minima: the rules of src/kv.rs, whose comparisons need no rounding. A thread has a record: eight groups
// of 32 numbers, so that it writes whole words.
//
//   keys      a group is a channel: eight channels of the block's tokens
//   values    a group is a token's 32 columns: those of eight tokens
//   16 bits   words are copied: eight columns of the block's tokens
struct Params {
    heads: u32,
    // Blocks to pack: the first, and how many.
    first: u32,
    count: u32,
    // Blocks there is room for.
    blocks: u32,
    window: u32,
    window_at: u32,
    codes_at: u32,
    groups_at: u32,
    // 1 / (codes - 1).
    inverse: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> cache: array<u32>;

//% include "lib/grid.wgsl"
//% set records = head // n.record
//% set words = head * bits // 32
//% if bits < 16
//% include "lib/f16.wgsl"
//% set last = 2 ** bits - 1

struct Group {
    // As it is stored: in 8 bits scale and minimum, in 4 scale and z.
    head: u32,
    // Of the codes: where they begin, and how far they are apart.
    start: f32,
    step: f32,
}

//% if bits == 8
fn group_of(low: f32, high: f32) -> Group {
    let wanted = (high - low) * p.inverse;
    var scale = f16_bits(wanted);
    if f16_value(scale) < wanted {
        scale += 1u;
    }
    return Group(scale | (f16_bits(low) << 16u), low, f16_value(scale));
}

// The largest q with q = 0 or (q - 0.5) * scale <= v - low. The quotient is only a guess.
fn code_of(g: Group, v: f32) -> u32 {
    if g.step == 0.0 {
        return 0u;
    }
    let t = v - g.start;
    var q = clamp(floor(t / g.step + 0.5), 0.0, 255.0);
    if q > 0.0 && (q - 0.5) * g.step > t {
        q -= 1.0;
    } else if q < 255.0 && (q + 0.5) * g.step <= t {
        q += 1.0;
    }
    return u32(q);
}
//% else
// The field of the scale at v, after so much has been added in its last bits.
fn field(v: f32, rest: u32) -> u32 {
    return max((bitcast<u32>(v) + rest) >> 19u, {{ n.scale_base // 524288 }}u) - {{ n.scale_base // 524288 }}u;
}

fn group_of(low: f32, high: f32) -> Group {
    let range = high - low;
    let nearest = field(range * p.inverse, 0x40000u);
    let reaching = field(max(abs(high), abs(low)) * 0.0078125, 0x7ffffu);
    let s = min(max(nearest, reaching), {{ n.not_finite - 1 }}u);
    let scale = bitcast<f32>({{ n.scale_base }}u + (s << 19u));
    let unit = scale * 0.125;
    let d = range - 15.0 * scale;
    let start = select(low, low + d * 0.5, d > -scale);
    var z = clamp(floor(start / unit + 0.5), -1024.0, 1023.0);
    if z > -1024.0 && (z - 0.5) * unit > start {
        z -= 1.0;
    } else if z < 1023.0 && (z + 0.5) * unit <= start {
        z += 1.0;
    }
    return Group(s | ((bitcast<u32>(i32(z)) & 0x7ffu) << 9u), z, unit);
}

// The largest q with q = 0 or (8 q - 4 + z) * unit <= v. The quotient is only a guess.
fn code_of(g: Group, v: f32) -> u32 {
    var q = clamp(floor((v / g.step - g.start) * 0.125 + 0.5), 0.0, 15.0);
    if q > 0.0 && (8.0 * q - 4.0 + g.start) * g.step > v {
        q -= 1.0;
    } else if q < 15.0 && (8.0 * q + 4.0 + g.start) * g.step <= v {
        q += 1.0;
    }
    return u32(q);
}
//% endif
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let thread = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if thread >= p.count * p.heads * {{ records }}u {
        return;
    }
    let record = thread % {{ records }}u;
    let block = p.first + thread / {{ records }}u % p.count;
    let kv_head = thread / {{ records }}u / p.count;
    let row = p.heads * {{ head // 2 }}u;
    // The head's words of the block's first token, in the window and among the codes.
    let source = p.window_at + block * {{ n.group }}u % p.window * row + kv_head * {{ head // 2 }}u;
    let to = p.codes_at + (kv_head * p.blocks + block) * {{ n.group * words }}u;
    //% if bits == 16
    for (var t = 0u; t < {{ n.group }}u; t++) {
        for (var i = 0u; i < 4u; i++) {
            cache[to + t * {{ words }}u + record * 4u + i] = cache[source + t * row + record * 4u + i];
        }
    }
    //% else
    // Numbers of the groups, the two of a word after each other: a step is a word.
    //% if keys
    let first = source + record * 4u;
    //% else
    let first = source + record % 4u * 8u * row + record / 4u * 16u;
    //% endif
    var groups: array<Group, 8>;
    //% if keys
    // Two channels a word.
    for (var pair = 0u; pair < 4u; pair++) {
        var low = unpack2x16float(cache[first + pair]);
        var high = low;
        var wild = vec2<bool>(false);
        for (var t = 0u; t < {{ n.group }}u; t++) {
            let word = cache[first + t * row + pair];
            let v = unpack2x16float(word);
            low = select(low, v, v < low);
            high = select(high, v, v > high);
            wild = wild | (vec2<u32>(word & 0x7c00u, (word >> 16u) & 0x7c00u) == vec2<u32>(0x7c00u));
        }
        groups[2u * pair] = checked(low.x, high.x, wild.x);
        groups[2u * pair + 1u] = checked(low.y, high.y, wild.y);
    }
    //% else
    for (var i = 0u; i < 8u; i++) {
        let own = first + i * row;
        let two = unpack2x16float(cache[own]);
        var low = two.x;
        var high = two.x;
        var wild = false;
        for (var c = 0u; c < {{ n.group // 2 }}u; c++) {
            let word = cache[own + c];
            let v = unpack2x16float(word);
            low = select(low, v.x, v.x < low);
            low = select(low, v.y, v.y < low);
            high = select(high, v.x, v.x > high);
            high = select(high, v.y, v.y > high);
            wild = wild || (word & 0x7c00u) == 0x7c00u || (word & 0x7c000000u) == 0x7c000000u;
        }
        groups[i] = checked(low, high, wild);
    }
    //% endif
    let at = p.groups_at + ((kv_head * p.blocks + block) * {{ records }}u + record) * {{ n.record if bits == 8 else n.int4_words }}u;
    //% if bits == 8
    for (var i = 0u; i < 8u; i++) {
        cache[at + i] = groups[i].head;
    }
    //% else
    var rest = 0u;
    for (var i = 0u; i < 4u; i++) {
        let one = groups[2u * i].head;
        let other = groups[2u * i + 1u].head;
        cache[at + i] = (one & 0xffffu) | (other << 16u);
        rest |= ((one >> 16u) | ((other >> 16u) << 4u)) << (8u * i);
    }
    cache[at + 4u] = rest;
    //% endif
    //% if keys
    // A token at a time: a code of each of the eight channels.
    for (var t = 0u; t < {{ n.group }}u; t++) {
        var codes: array<u32, 8>;
        for (var pair = 0u; pair < 4u; pair++) {
            let v = unpack2x16float(cache[first + t * row + pair]);
            codes[2u * pair] = number(groups[2u * pair], v.x);
            codes[2u * pair + 1u] = number(groups[2u * pair + 1u], v.y);
        }
        let low = codes[0] | (codes[1] << 8u) | (codes[2] << 16u) | (codes[3] << 24u);
        let high = codes[4] | (codes[5] << 8u) | (codes[6] << 16u) | (codes[7] << 24u);
        //% if bits == 8
        let word = to + t * {{ words }}u + record * 2u;
        cache[word] = low;
        cache[word + 1u] = high;
        //% else
        cache[to + t * {{ words }}u + record] = low | (high << 4u);
        //% endif
    }
    //% else
    for (var i = 0u; i < 8u; i++) {
        let own = first + i * row;
        let word = to + (record % 4u * 8u + i) * {{ words }}u + record / 4u * {{ bits }}u;
        for (var w = 0u; w < 4u; w++) {
            // Eight columns.
            var quads = vec2<u32>();
            for (var c = 0u; c < 4u; c++) {
                let v = unpack2x16float(cache[own + 4u * w + c]);
                let two = number(groups[i], v.x) | (number(groups[i], v.y) << 8u);
                quads[c / 2u] |= two << (16u * (c & 1u));
            }
            //% if bits == 8
            cache[word + 2u * w] = quads.x;
            cache[word + 2u * w + 1u] = quads.y;
            //% else
            cache[word + w] = quads.x | (quads.y << 4u);
            //% endif
        }
    }
    //% endif
    //% endif
}
//% if bits < 16

//% set nan = "0x7e00u" if bits == 8 else n.not_finite ~ "u"
// A group of these extremes, or one that is not finite, of which all codes are 0.
fn checked(low: f32, high: f32, wild: bool) -> Group {
    if wild {
        return Group({{ nan }}, 0.0, 0.0);
    }
    // A zero is +0.
    return group_of(select(low, 0.0, low == 0.0), select(high, 0.0, high == 0.0));
}

fn number(g: Group, v: f32) -> u32 {
    if g.head == {{ nan }} {
        return 0u;
    }
    return code_of(g, v);
}
//% endif
