// The number that the byte of a scale stands for.
//% if s.scale == "e8m0"
fn scale_value(b: u32) -> f32 {
    return bitcast<f32>(select(b << 23u, 0x00400000u, b == 0u));
}
//% elif s.scale == "e8m0half"
fn scale_value(b: u32) -> f32 {
    return bitcast<f32>(select((b - 1u) << 23u, 0x00200000u << (b & 1u), b < 2u));
}
//% elif s.scale == "ue4m3"
fn scale_value(b: u32) -> f32 {
    let e = (b >> 3u) & 15u;
    let m = b & 7u;
    let normal = bitcast<f32>(((e + 120u) << 23u) | (m << 20u));
    let value = select(normal, f32(m) * 0.001953125, e == 0u);
    return select(value, 0.0, b == 0x7fu);
}
//% endif
