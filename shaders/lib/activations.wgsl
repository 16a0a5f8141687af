// Activations x [M, K] -> four consecutive numbers of a row, zeros beyond K.
//
// `x_f16`: x is f16, read natively with the f16 tier, else as pairs in u32. `ragged`: K is no multiple of 4, rows are not
// aligned and numbers are read one by one. `full`: K is a multiple of 32 and q is always inside. `s.permuted`: numbers are those of the
// columns that the weights hold at these positions, one by one; that columns are below K was checked when the weights were made.
//% if ragged or s.permuted
//% if x_f16
fn x_at(i: u32) -> f32 {
    return unpack2x16float(x[i >> 1u] >> (16u * (i & 1u))).x;
}
//% else
fn x_at(i: u32) -> f32 {
    return x[i];
}
//% endif

fn x_quad(m: u32, q: u32) -> vec4<f32> {
    let base = m * p.k;
    //% if s.permuted
    //% if not full
    if q >= (p.k + 3u) >> 2u {
        return vec4<f32>();
    }
    //% endif
    // Beyond K, padding of the plane.
    let at = w4[(p.perm >> 2u) + q];
    //% else
    let at = 4u * q + vec4<u32>(0u, 1u, 2u, 3u);
    //% endif
    //% if s.permuted and not ragged
    return vec4<f32>(x_at(base + at.x), x_at(base + at.y), x_at(base + at.z), x_at(base + at.w));
    //% else
    let c = 4u * q;
    var v = vec4<f32>();
    if c < p.k { v.x = x_at(base + at.x); }
    if c + 1u < p.k { v.y = x_at(base + at.y); }
    if c + 2u < p.k { v.z = x_at(base + at.z); }
    if c + 3u < p.k { v.w = x_at(base + at.w); }
    return v;
    //% endif
}
//% else
fn x_quad(m: u32, q: u32) -> vec4<f32> {
    let per_row = p.k >> 2u;
    //% if not full
    if q >= per_row {
        return vec4<f32>();
    }
    //% endif
    //% if x_f16 and f16
    return vec4<f32>(x[m * per_row + q]);
    //% elif x_f16
    let v = x[m * per_row + q];
    return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
    //% else
    return x[m * per_row + q];
    //% endif
}
//% endif
