// The loss of a row of scores, or its gradient: by the targets, and where there is a teacher by its scores too (`learning`). A thread has one row, since classes are few.
struct Params {
    rows: u32,
    classes: u32,
    // What the losses by the targets and by the teacher are multiplied with.
    of_labels: f32,
    of_teacher: f32,
    temperature: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<f32>;
//% if teacher
@group(0) @binding(3) var<storage, read> teacher: array<f32>;
//% endif
@group(0) @binding({{ 4 if teacher else 3 }}) var<storage, read_write> y: array<f32>;

//% include "lib/grid.wgsl"
//% for name in (["scores", "teacher"] if teacher else ["scores"])

// The largest of a row, and the sum of the powers of e of distances from it in units of t.
fn softmax_{{ name }}(first: u32, t: f32) -> vec2<f32> {
    var top = {{ name }}[first];
    for (var i = first + 1u; i < first + p.classes; i++) {
        top = max(top, {{ name }}[i]);
    }
    var sum = 0.0;
    for (var i = first; i < first + p.classes; i++) {
        sum += exp(({{ name }}[i] - top) / t);
    }
    return vec2<f32>(top, sum);
}
//% endfor

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let row = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if row >= p.rows {
        return;
    }
    let first = row * p.classes;
    let own = softmax_scores(first, 1.0);
    //% if teacher
    let t = p.temperature;
    let soft = softmax_scores(first, t);
    let wanted = softmax_teacher(first, t);
    //% endif
    //% if gradient
    for (var i = first; i < first + p.classes; i++) {
        var d = p.of_labels * (exp(scores[i] - own.x) / own.y - targets[i]);
        //% if teacher
        d += p.of_teacher * (exp((scores[i] - soft.x) / t) / soft.y - exp((teacher[i] - wanted.x) / t) / wanted.y);
        //% endif
        y[i] = d;
    }
    //% else
    let log_own = log(own.y);
    //% if teacher
    let log_both = log(soft.y) - log(wanted.y);
    //% endif
    var of_labels = 0.0;
    var of_teacher = 0.0;
    for (var i = first; i < first + p.classes; i++) {
        of_labels += targets[i] * (log_own - (scores[i] - own.x));
        //% if teacher
        let differ = ((teacher[i] - wanted.x) - (scores[i] - soft.x)) / t + log_both;
        of_teacher += exp((teacher[i] - wanted.x) / t) / wanted.y * differ;
        //% endif
    }
    y[row] = p.of_labels * of_labels + p.of_teacher * of_teacher;
    //% endif
}
