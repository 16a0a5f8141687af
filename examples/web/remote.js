// Work in a worker, so that the page goes on meanwhile: calls there, their answers and progress here.
//
//   page: new Remote("x-worker.js").call(name, argument, progress) -> { id, name, argument } -> worker: answer({ name: (argument, progress) => ... })
//   page: promise, progress                                        <- { id, result | error | progress }
//
// Where the device goes away in a call, the worker takes a new one and the call begins once more.

export class Remote {
    #worker;
    #calls = new Map();
    #next = 0;

    constructor(url) {
        this.#worker = new Worker(url, { type: "module" });
        this.#worker.onmessage = ({ data }) => this.#hear(data);
        this.#worker.onerror = (event) => this.#end(new Error(event.message || "the worker cannot be loaded"));
    }

    #hear({ id, result, error, progress }) {
        const call = this.#calls.get(id);
        if (!call) return;
        if (progress !== undefined) {
            call.progress?.(progress);
            return;
        }
        this.#calls.delete(id);
        if (error) call.reject(Object.assign(new Error(error.message), error));
        else call.resolve(result);
    }

    #end(error) {
        for (const { reject } of this.#calls.values()) reject(error);
        this.#calls.clear();
    }

    call(name, argument, progress) {
        const id = this.#next++;
        return new Promise((resolve, reject) => {
            this.#calls.set(id, { resolve, reject, progress });
            this.#worker.postMessage({ id, name, argument });
        });
    }

    /** Ends the worker in the middle of whatever it does; its calls are rejected. */
    stop(reason) {
        this.#worker.terminate();
        this.#end(reason);
    }
}

/** In a worker: what it answers calls with, and what makes it a new engine. */
export function answer(calls, restart) {
    self.onmessage = async ({ data: { id, name, argument } }) => {
        const call = () => calls[name](argument, (progress) => self.postMessage({ id, progress }));
        try {
            const result = await call().catch(async (error) => {
                if (error.code !== "DeviceLost") throw error;
                await restart();
                return call();
            });
            self.postMessage({ id, result });
        } catch (error) {
            self.postMessage({ id, error: { name: error.name, message: error.message, code: error.code } });
        }
    };
}
