// What the calls of the package should give, worked out here in JavaScript and by nothing of lowbit.

const f32 = Math.fround;
const f16 = (v) => new Float16Array([v])[0];

/** Decoded Q4_0 of ggml's definition: blocks of 32, d = (value of largest magnitude) / -8 as f16, codes of 4 bits around 8. */
export function q4_0(values) {
    const out = new Float32Array(values.length);
    for (let block = 0; block < values.length; block += 32) {
        let most = 0;
        for (let i = block; i < block + 32; i++) if (Math.abs(values[i]) > Math.abs(most)) most = values[i];
        const d = f32(most / -8);
        const inverse = d === 0 ? 0 : f32(1 / d);
        const scale = f16(d);
        for (let i = block; i < block + 32; i++) {
            const code = Math.min(15, Math.trunc(f32(f32(values[i] * inverse) + 8.5)));
            out[i] = f32((code - 8) * scale);
        }
    }
    return out;
}

const FUNCTIONS = {
    identity: (v) => v,
    relu: (v) => Math.max(0, v),
    gelu: (v) => (v / 2) * (1 + erf(v / Math.SQRT2)),
    silu: (v) => v / (1 + Math.exp(-v)),
};

// By its series; for |v| beyond 5 it is 1 to more digits than f32 has.
function erf(v) {
    if (Math.abs(v) > 5) return Math.sign(v);
    let [term, sum] = [v, v];
    for (let n = 1; n < 200; n++) {
        term *= (-v * v) / n;
        sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
}

/** y = function(x w^T + bias + residual) in double precision, and the magnitudes of each sum's terms together. */
export function matmul(x, w, k, { bias, residual, function: name = "identity" } = {}) {
    const [m, n] = [x.length / k, w.length / k];
    const [y, size] = [new Float64Array(m * n), new Float64Array(m * n)];
    for (let r = 0; r < m; r++) {
        for (let c = 0; c < n; c++) {
            let [sum, magnitude] = [bias?.[c] ?? 0, Math.abs(bias?.[c] ?? 0)];
            if (residual) [sum, magnitude] = [sum + residual[r * n + c], magnitude + Math.abs(residual[r * n + c])];
            for (let i = 0; i < k; i++) {
                sum += x[r * k + i] * w[c * k + i];
                magnitude += Math.abs(x[r * k + i] * w[c * k + i]);
            }
            [y[r * n + c], size[r * n + c]] = [FUNCTIONS[name](sum), magnitude];
        }
    }
    return { y, size };
}

/** How far a sum of k products in f32 may be off, in whatever order: k roundings of the magnitudes. */
export const sumBound = (k, size) => (i) => (k + 8) * 2 ** -24 * size[i] + 1e-30;

export const half = f16;
