// y[i, j] = sum over t of x[t, i] * x[t, j] (+ onto[i, j]): the second moments of the columns of x, X^T X.
//
// y is symmetric. A workgroup has a tile of `tile` x `tile` on or above the diagonal, a thread 4 x 4 of it, and stores what is above on both sides. Rows of x
// pass through workgroup memory, `steps` at a time.
struct Params {
    // Rows and columns of x.
    tokens: u32,
    k: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//% if onto
@group(0) @binding(2) var<storage, read> onto: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//% else
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
//% endif
//% set side = tile // 4

var<workgroup> rows: array<f32, {{ tile * steps }}>;
var<workgroup> columns: array<f32, {{ tile * steps }}>;

//% include "lib/grid.wgsl"

@compute @workgroup_size({{ side * side }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let tiles = (p.k + {{ tile - 1 }}u) / {{ tile }}u;
    let number = linear_workgroup(wid, count);
    let first_i = number / tiles * {{ tile }}u;
    let first_j = number % tiles * {{ tile }}u;
    if number >= tiles * tiles || first_j < first_i {
        return;
    }
    let ti = tid / {{ side }}u;
    let tj = tid % {{ side }}u;
    //% for a in range(4)
    var sum{{ a }} = vec4<f32>();
    //% endfor
    for (var t = 0u; t < p.tokens; t += {{ steps }}u) {
        for (var at = tid; at < {{ tile * steps }}u; at += {{ side * side }}u) {
            let row = t + at / {{ tile }}u;
            let i = first_i + at % {{ tile }}u;
            let j = first_j + at % {{ tile }}u;
            // What is beyond the last row or column counts nothing.
            var left = 0.0;
            var right = 0.0;
            if row < p.tokens && i < p.k {
                left = x[row * p.k + i];
            }
            if row < p.tokens && j < p.k {
                right = x[row * p.k + j];
            }
            rows[at] = left;
            columns[at] = right;
        }
        workgroupBarrier();
        for (var s = 0u; s < {{ tile * steps }}u; s += {{ tile }}u) {
            let at = s + 4u * tj;
            let right = vec4<f32>(columns[at], columns[at + 1u], columns[at + 2u], columns[at + 3u]);
            //% for a in range(4)
            sum{{ a }} += rows[s + 4u * ti + {{ a }}u] * right;
            //% endfor
        }
        workgroupBarrier();
    }
    //% for a in range(4)
    {
        let i = first_i + 4u * ti + {{ a }}u;
        for (var b = 0u; b < 4u; b++) {
            let j = first_j + 4u * tj + b;
            if i < p.k && j < p.k {
                //% if onto
                y[i * p.k + j] = onto[i * p.k + j] + sum{{ a }}[b];
                if first_i != first_j {
                    y[j * p.k + i] = onto[j * p.k + i] + sum{{ a }}[b];
                }
                //% else
                y[i * p.k + j] = sum{{ a }}[b];
                if first_i != first_j {
                    y[j * p.k + i] = sum{{ a }}[b];
                }
                //% endif
            }
        }
    }
    //% endfor
}
