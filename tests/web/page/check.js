// Assertions, and a runner of tests that a driver asks for their results.
//
//   suite: [[name, async () => {...}], ...] -> run -> [{ name, why, note }]        why is null where the test passed; note: what it returned, to be shown

export class Failure extends Error {}

function fail(message) {
    throw new Failure(message);
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value) ?? String(value));

export const check = {
    ok(value, what) {
        if (!value) fail(what);
    },
    equal(got, want, what) {
        if (shown(got) !== shown(want)) fail(`${what}: ${shown(got)} instead of ${shown(want)}`);
    },
    /** Two arrays of numbers, equal to the bit (NaN equals itself, -0 is not 0). */
    same(got, want, what) {
        if (got.length !== want.length) fail(`${what}: ${got.length} values instead of ${want.length}`);
        const at = got.findIndex((v, i) => !Object.is(v, want[i]));
        if (at >= 0) fail(`${what}: value ${at} is ${got[at]} instead of ${want[at]}`);
    },
    /** Two arrays of numbers; `bound(i)` is how far apart they may be. */
    near(got, want, bound, what) {
        if (got.length !== want.length) fail(`${what}: ${got.length} values instead of ${want.length}`);
        const at = got.findIndex((v, i) => !(Math.abs(v - want[i]) <= bound(i)));
        if (at >= 0) fail(`${what}: value ${at} is ${got[at]} instead of ${want[at]}, more than ${bound(at)} away`);
    },
    /** That a call or promise fails, with this code and words in its message. */
    async rejects(work, code, words, what) {
        let value;
        try {
            value = await work();
        } catch (error) {
            if (!(error instanceof Error)) fail(`${what}: threw ${shown(error)}, no Error`);
            if (error.code !== code || !words.test(error.message)) fail(`${what}: ${error.code}: ${error.message} (expected ${code}: ${words})`);
            return;
        }
        fail(`${what}: gave ${shown(value).slice(0, 200)} and no error`);
    },
};

export async function run(suite) {
    const results = [];
    for (const [name, test] of suite) {
        const start = performance.now();
        let [why, note] = [null, null];
        try {
            note = (await test()) ?? null;
        } catch (error) {
            why = error instanceof Failure ? error.message : `${error.name}: ${error.message}\n${error.stack}`;
        }
        results.push({ name, why, note, ms: Math.round(performance.now() - start) });
    }
    return results;
}

/** Numbers that are the same in every run: about normal, deviation 1. */
export function random(seed) {
    let state = BigInt(seed) * 2654435761n + 1n;
    const next = () => {
        state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
        return Number(state >> 33n) / 2 ** 31;
    };
    return (count) => Float32Array.from({ length: count }, () => next() + next() + next() + next() - 2);
}
