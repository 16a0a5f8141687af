// y[m, n] = x[m, :] . w[n, :] for any M on matrix units: a tile of `bm` x `bn` outputs per workgroup, K in steps of `bk`.
//
// Both operands are rounded to f16 on their way into workgroup memory; products are exact and summed in f32 by cooperative matrices of
// `size` x `size`. Each of the `waves_m` x `waves_n` subgroups owns `frags_m` x `frags_n` matrices of outputs, which pass through workgroup
// memory once more at the end, because only whole matrices can be stored. Rows are padded against bank conflicts.
//
// `varying`: subgroups of a size that the driver chooses, so that there are `waves_m` x `waves_n` of them or twice as many (`narrow`), and then each owns
// the left half of the matrices.
//
//   x tile  [bm, bk]  rows of x, row-major matrices A            w tile  [bn, bk]  rows of w, the columns of matrices B
enable f16;
enable wgpu_cooperative_matrix;
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
}
//% include "lib/product_bindings.wgsl"

//% include "scheme/weights.wgsl"
//% include "lib/activations.wgsl"
//% include "lib/epilogue.wgsl"
//% set kq = bk // 4
//% set stride = bk + 8
//% set area = size * size
//% set mat = "coop_mat" ~ size ~ "x" ~ size
var<workgroup> wt: array<f16, {{ bn * stride }}>;
var<workgroup> xt: array<f16, {{ bm * stride }}>;
var<workgroup> yt: array<f32, {{ waves_m * waves_n * area * (2 if varying else 1) }}>;
//% if varying
var<workgroup> wave_count: u32;
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
    @builtin(subgroup_id) wave: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    //% if varying
    @builtin(num_subgroups) waves: u32,
    @builtin(subgroup_size) width: u32,
    //% endif
) {
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    //% endif
    let n_first = wid.x * {{ bn }}u;
    let m_first = wid.y * {{ bm }}u;
    //% if varying
    // The same for all of the workgroup, which is said by the load.
    wave_count = waves;
    let narrow = workgroupUniformLoad(&wave_count) > {{ waves_m * waves_n }}u;
    let waves_n = select({{ waves_n }}u, {{ 2 * waves_n }}u, narrow);
    let m_wave = wave / waves_n * {{ frags_m * size }}u;
    let n_wave = wave % waves_n * select({{ frags_n * size }}u, {{ frags_n // 2 * size }}u, narrow);
    //% else
    let m_wave = wave / {{ waves_n }}u * {{ frags_m * size }}u;
    let n_wave = wave % {{ waves_n }}u * {{ frags_n * size }}u;
    //% endif
    //% for i in range(frags_m)
    //% for j in range(frags_n)
    var acc{{ i }}_{{ j }} = {{ mat }}<f32, C>();
    //% endfor
    //% endfor
    //% include "lib/k_range.wgsl"
    let quads = min((p.k + 3u) / 4u, 8u * chunks);
    for (var q0 = 8u * first_chunk; q0 < quads; q0 += {{ kq }}u) {
        //% set scalars = true
        //% set elem = "f16"
        //% include "lib/tiles.wgsl"
        workgroupBarrier();
        //% for step in range(bk // size)
        {
            //% for i in range(frags_m)
            let a{{ i }} = coopLoadT<{{ mat }}<f16, A>>(&xt[(m_wave + {{ i * size }}u) * {{ stride }}u + {{ step * size }}u], {{ stride }}u);
            //% endfor
            //% for j in range(frags_n)
            {{ "if !narrow " if varying and 2 * j >= frags_n }}{
                let b = coopLoad<{{ mat }}<f16, B>>(&wt[(n_wave + {{ j * size }}u) * {{ stride }}u + {{ step * size }}u], {{ stride }}u);
                //% for i in range(frags_m)
                acc{{ i }}_{{ j }} = coopMultiplyAdd(a{{ i }}, b, acc{{ i }}_{{ j }});
                //% endfor
            }
            //% endfor
        }
        //% endfor
        workgroupBarrier();
    }
    //% for i in range(frags_m)
    //% for j in range(frags_n)
    {{ "if !narrow " if varying and 2 * j >= frags_n }}{
        coopStoreT(acc{{ i }}_{{ j }}, &yt[wave * {{ area }}u], {{ size }}u);
        workgroupBarrier();
        for (var o = lane; o < {{ area }}u; o += {{ "width" if varying else subgroup ~ "u" }}) {
            let m = m_first + m_wave + {{ i * size }}u + o / {{ size }}u;
            let n = n_first + n_wave + {{ j * size }}u + o % {{ size }}u;
            if m < p.m && n < p.n {
                store(m, n, yt[wave * {{ area }}u + o]);
            }
        }
        workgroupBarrier();
    }
    //% endfor
    //% endfor
}
