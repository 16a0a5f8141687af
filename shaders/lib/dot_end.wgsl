// From integer sums to y: the end of the kernels for int8 activations. Needs `lib/epilogue.wgsl`.
//
//   whole      `sum` of products of codes and `x_sum` of x, both over all of K, in integers
//   else       `sum` has the scales of the weights in it, and those of x where they differ along K
//% if i.whole
fn dot_end(m: u32, n: u32, sum: i32, x_sum: i32) -> f32 {
    let row = p.row0 + n;
    let d = group_of(row, 0u);
    var exact = sum;
    //% if i.zero
    exact -= i32(d.zero - {{ i.fold }}.0) * x_sum;
    //% endif
    //% if i.x_zero
    exact -= bitcast<i32>(p.x_zero) * i32(row_sums[row]);
    //% endif
    //% if i.raw
    return f32(exact);
    //% elif i.x_scales
    return f32(exact) * (d.scale * {{ i.unit }}) * x_scale_of(m, 0u);
    //% else
    return f32(exact) * (d.scale * {{ i.unit }}) * p.x_scale;
    //% endif
}
//% else
fn dot_end(m: u32, n: u32, sum: f32) -> f32 {
    var v = sum;
    //% if i.x_zero
    v -= f32(bitcast<i32>(p.x_zero)) * row_sums[p.row0 + n];
    //% endif
    //% if i.raw or i.x_group
    return v;
    //% elif i.x_scales
    return v * x_scale_of(m, 0u);
    //% else
    return v * p.x_scale;
    //% endif
}
//% endif
//% if y_int8

// Four columns from n on; n is a multiple of 4, as is n0. Those beyond the last are 0, to the end of the row.
fn store4(m: u32, n: u32, v: vec4<f32>) {
    let codes = vec4<u32>(int8_code(v.x, p.y_scale, p.y_zero), int8_code(v.y, p.y_scale, p.y_zero), int8_code(v.z, p.y_scale, p.y_zero), int8_code(v.w, p.y_scale, p.y_zero));
    let c = select(vec4<u32>(), codes, n + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.n));
    let row = (p.y_row0 + m) * p.y_stride;
    let word = (p.n0 + n) >> 2u;
    y[row + word] = c.x | (c.y << 8u) | (c.z << 16u) | (c.w << 24u);
    if p.n0 + n + 4u >= p.n_total {
        for (var i = word + 1u; i < p.y_stride; i++) {
            y[row + i] = 0u;
        }
    }
}
//% endif
