// y[m, n] = sum over t of a(m, t) * b(n, t) (+ bias[n]): a is [M, T], or where it is turned [T, M]; b is [N, T] or [T, N].
//
// A workgroup has a tile of `tile` x `tile`, a thread 4 x 4 of it. Terms pass through workgroup memory, `steps` at a time.
struct Params {
    m: u32,
    n: u32,
    terms: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
//% if bias
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
//% else
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//% endif
//% set side = tile // 4

// Term s of row r of the tile lies at s * tile + r.
var<workgroup> rows: array<f32, {{ tile * steps }}>;
var<workgroup> columns: array<f32, {{ tile * steps }}>;

//% include "lib/grid.wgsl"

@compute @workgroup_size({{ side * side }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let across = (p.n + {{ tile - 1 }}u) / {{ tile }}u;
    let number = linear_workgroup(wid, count);
    let first_i = number / across * {{ tile }}u;
    let first_j = number % across * {{ tile }}u;
    if first_i >= p.m {
        return;
    }
    let ti = tid / {{ side }}u;
    let tj = tid % {{ side }}u;
    //% for r in range(4)
    var sum{{ r }} = vec4<f32>();
    //% endfor
    for (var t = 0u; t < p.terms; t += {{ steps }}u) {
        for (var at = tid; at < {{ tile * steps }}u; at += {{ side * side }}u) {
            // Neighbouring threads load neighbouring numbers. What is beyond the last row or term counts nothing.
            //% for name, stored, first, size, turned in [["rows", "a", "first_i", "p.m", a_turned], ["columns", "b", "first_j", "p.n", b_turned]]
            {
                //% if turned
                let r = at % {{ tile }}u;
                let s = at / {{ tile }}u;
                //% else
                let r = at / {{ steps }}u;
                let s = at % {{ steps }}u;
                //% endif
                var v = 0.0;
                if t + s < p.terms && {{ first }} + r < {{ size }} {
                    //% if turned
                    v = {{ stored }}[(t + s) * {{ size }} + {{ first }} + r];
                    //% else
                    v = {{ stored }}[({{ first }} + r) * p.terms + t + s];
                    //% endif
                }
                {{ name }}[s * {{ tile }}u + r] = v;
            }
            //% endfor
        }
        workgroupBarrier();
        for (var s = 0u; s < {{ tile * steps }}u; s += {{ tile }}u) {
            let at = s + 4u * tj;
            let right = vec4<f32>(columns[at], columns[at + 1u], columns[at + 2u], columns[at + 3u]);
            //% for r in range(4)
            sum{{ r }} += rows[s + 4u * ti + {{ r }}u] * right;
            //% endfor
        }
        workgroupBarrier();
    }
    //% for r in range(4)
    {
        let i = first_i + 4u * ti + {{ r }}u;
        for (var c = 0u; c < 4u; c++) {
            let j = first_j + 4u * tj + c;
            if i < p.m && j < p.n {
                //% if bias
                y[i * p.n + j] = sum{{ r }}[c] + bias[j];
                //% else
                y[i * p.n + j] = sum{{ r }}[c];
                //% endif
            }
        }
    }
    //% endfor
}
