// Activations x [M, K] -> four consecutive numbers of a row, zeros beyond K.
//
// `x_f16`: x is f16, read natively with the f16 tier, else as pairs in u32. `ragged`: K is no multiple of 4, rows are not
// aligned and numbers are read one by one. `full`: K is a multiple of 32 and q is always inside.
//% if ragged
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
    let c = 4u * q;
    var v = vec4<f32>();
    if c < p.k { v.x = x_at(base + c); }
    if c + 1u < p.k { v.y = x_at(base + c + 1u); }
    if c + 2u < p.k { v.z = x_at(base + c + 2u); }
    if c + 3u < p.k { v.w = x_at(base + c + 3u); }
    return v;
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
