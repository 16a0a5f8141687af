// ggml's matrix product as a peer, on its CPU and Vulkan backends; arguments and protocol are those of src/serve.rs.
//
//   FOLDER/SCHEME.gguf -> gguf_init_from_file -> w |
//   FOLDER/xM.f32 [M, K] ----------------------> x | on the device -> ggml_mul_mat -> y -> file Y [M, N]
//
// A run is ggml_backend_graph_compute: submit and wait. x, w and y stay on the device. ggml rounds activations as it likes: on the CPU to int8 in
// groups of 32 or 256.
#define _POSIX_C_SOURCE 200809L
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>
#include <gguf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void fail(const char *what, const char *which) {
  fprintf(stderr, "%s: %s\n", what, which);
  exit(1);
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static ggml_backend_dev_t find(const char *wanted) {
  for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    bool cpu = ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    if (strcmp(wanted, "cpu") == 0 ? cpu : !cpu && strstr(ggml_backend_dev_description(device), wanted)) return device;
  }
  fail("no device of this name", wanted);
  return NULL;
}

static void run(ggml_backend_t backend, struct ggml_cgraph *graph) {
  if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) fail("the product failed", ggml_backend_name(backend));
}

static void transfer(const char *path, const char *mode, void *data, size_t bytes) {
  FILE *file = fopen(path, mode);
  size_t done = !file ? 0 : mode[0] == 'r' ? fread(data, 1, bytes, file) : fwrite(data, 1, bytes, file);
  if (done != bytes || fclose(file) != 0) fail("cannot be read or written", path);
}

int main(int argc, char **argv) {
  if (argc != 9) fail("arguments", "DEVICE M K N SCHEME ACTIVATION FOLDER Y");
  const char *folder = argv[7];
  char w_path[4096], x_path[4096];
  snprintf(w_path, sizeof w_path, "%s/%s.gguf", folder, argv[5]);
  snprintf(x_path, sizeof x_path, "%s/x%s.f32", folder, argv[2]);
  int64_t m = atoll(argv[2]), k = atoll(argv[3]), n = atoll(argv[4]);
  ggml_log_set(quiet, NULL);
  ggml_backend_load_all();
  ggml_backend_dev_t device = find(argv[1]);
  ggml_backend_t backend = ggml_backend_dev_init(device, NULL);
  if (!backend) fail("cannot be opened", argv[1]);
  ggml_backend_set_n_threads_t set_threads =
      (ggml_backend_set_n_threads_t)ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads");
  const char *threads = getenv("PEERS_THREADS");
  if (set_threads && threads) set_threads(backend, atoi(threads));

  struct ggml_context *file = NULL;
  struct gguf_init_params params = {.no_alloc = false, .ctx = &file};
  if (!gguf_init_from_file(w_path, params)) fail("is not read by ggml", w_path);
  struct ggml_tensor *stored = NULL;
  for (struct ggml_tensor *t = ggml_get_first_tensor(file); t; t = ggml_get_next_tensor(file, t)) {
    if (t->ne[0] == k && t->ne[1] == n) stored = t;
  }
  if (!stored) fail("has no tensor of this shape", w_path);

  struct ggml_init_params room = {.mem_size = 16 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true};
  struct ggml_context *context = ggml_init(room);
  struct ggml_tensor *w = ggml_new_tensor_2d(context, stored->type, k, n);
  struct ggml_tensor *x = ggml_new_tensor_2d(context, GGML_TYPE_F32, k, m);
  struct ggml_tensor *y = ggml_mul_mat(context, w, x);
  struct ggml_cgraph *graph = ggml_new_graph(context);
  ggml_build_forward_expand(graph, y);
  if (!ggml_backend_supports_op(backend, y)) fail("has no such product", ggml_backend_name(backend));
  if (!ggml_backend_alloc_ctx_tensors(context, backend)) fail("out of memory", ggml_backend_name(backend));
  size_t bytes = ggml_nbytes(x) > ggml_nbytes(y) ? ggml_nbytes(x) : ggml_nbytes(y);
  void *host = malloc(bytes);
  if (!host) fail("out of memory", "host");
  transfer(x_path, "rb", host, ggml_nbytes(x));
  ggml_backend_tensor_set(x, host, 0, ggml_nbytes(x));
  ggml_backend_tensor_set(w, stored->data, 0, ggml_nbytes(w));
  run(backend, graph);
  ggml_backend_tensor_get(y, host, 0, ggml_nbytes(y));
  transfer(argv[8], "wb", host, ggml_nbytes(y));

  printf("ready ggml %s, %s, %s\n", ggml_version(), ggml_backend_name(backend), ggml_backend_dev_description(device));
  fflush(stdout);
  for (char line[64]; fgets(line, sizeof line, stdin);) {
    // Weights come back into the caches and threads awake before the run that counts.
    double start = now_ms();
    do run(backend, graph);
    while (now_ms() - start < 4);
    start = now_ms();
    run(backend, graph);
    printf("%.6f\n", now_ms() - start);
    fflush(stdout);
  }
  return 0;
}
