/* Training with Riverhorse, on the CPU and on NVIDIA GPUs. Errors, options, threads and lifetimes: as
 * riverhorse/riverhorse.h says.
 */
#ifndef RIVERHORSE_TRAINING_H
#define RIVERHORSE_TRAINING_H

#include <riverhorse/riverhorse.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format takes the macro for a function. */
/* clang-format off */
/* Activation recomputation: what the backward pass of a training makes again instead of keeping it. Less memory for
 * more time, and the same gradients bit for bit. */
RIVERHORSE_ENUM(riverhorse_recompute) {
  RIVERHORSE_RECOMPUTE_NONE = 0,
  RIVERHORSE_RECOMPUTE_MIXER = 1, /* all of a layer before its MLP: norms, projections, mixer */
  RIVERHORSE_RECOMPUTE_BLOCK = 2  /* all of a layer; only the residual stream that it begins with is kept */
};

/* Of a training in F16 or BF16, before the softmax of its loss. */
RIVERHORSE_ENUM(riverhorse_logits) {
  RIVERHORSE_LOGITS_32_BITS = 0,
  RIVERHORSE_LOGITS_16_BITS = 1 /* faster; each is rounded, and by as much its gradient */
};

/* What decays, and how fast the dynamics of the SSMs learn. */
RIVERHORSE_ENUM(riverhorse_recipe) {
  RIVERHORSE_RECIPE_GROUPED = 0, /* decay of the weights only; the dynamics learn as all else */
  RIVERHORSE_RECIPE_SAFARI = 1   /* decay of weights and vectors; the dynamics learn at most at 1e-3 */
};

/* Of the learning rate, after the warm-up. */
RIVERHORSE_ENUM(riverhorse_schedule) {
  RIVERHORSE_SCHEDULE_CONSTANT = 0,
  RIVERHORSE_SCHEDULE_LINEAR = 1, /* a straight line to the final fraction at the last step */
  RIVERHORSE_SCHEDULE_COSINE = 2, /* half a wave to it */
  RIVERHORSE_SCHEDULE_WSD = 3     /* constant, then a straight line over the last part */
};
/* clang-format on */

typedef struct riverhorse_device riverhorse_device;
typedef struct riverhorse_trainer riverhorse_trainer;

/* Its members are those of riverhorse_model_options. */
typedef struct riverhorse_device_options {
  uint32_t struct_size;
  int32_t safe_shaders;
  int32_t skip_self_test;
  int32_t validation;
  double submission_limit_ms;
  const char* backend;
  const char* device;
  const char* cache_folder;
} riverhorse_device_options;

/* Opens a device to train on. The device asked for is the one used, or the call fails; where none is, it is the best
 * one that trains.
 * Errors: NOT_FOUND; UNSUPPORTED, for a device that does not train too. Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_device_open(const riverhorse_device_options* options,
                                                        riverhorse_device** device);
/* The device is given back when its last trainer is freed too. Threads: alone. */
RIVERHORSE_API void riverhorse_device_free(riverhorse_device* device);

/* Where a training begins, and how it runs. The model is exactly one of `preset`, `config_json` and `model_path`. In
 * a step AdamW takes the gradients of the mean loss over the scored tokens, scaled down to a norm of `clip_norm`. */
typedef struct riverhorse_trainer_options {
  uint32_t struct_size;
  riverhorse_conv conv;
  riverhorse_recipe recipe;
  riverhorse_schedule schedule;
  const char* preset;       /* a new model: "tiny", "tiny-hybrid", "125m", "355m", ... */
  const char* config_json;  /* a new model: the text of a config.json */
  const char* model_path;   /* the weights of a model folder, .safetensors or .pt file, as riverhorse_model_load */
  uint64_t seed;            /* of a new model's values, and of dropout; below 2^63 */
  int64_t batch;            /* B, sequences at once; default 8. More of them in a step are done B at a time */
  int64_t length;           /* L, tokens of a sequence; default 1024 */
  double learning_rate;     /* the largest; default 6e-4 */
  double ssm_learning_rate; /* of the dynamics of the SSMs; default by recipe */
  double beta1;             /* default 0.9 */
  double beta2;             /* default 0.95 */
  double epsilon;           /* default 1e-8 */
  double weight_decay;      /* default 0.1; negative: none */
  double clip_norm;         /* default 1; negative: no clipping */
  double skip_above;        /* steps of a larger gradient norm change nothing; default: only those not finite */
  int64_t warmup_steps;     /* in which the learning rate rises from 0 */
  int64_t schedule_steps;   /* steps until the final fraction; needed by every schedule but the constant one */
  double final_fraction;    /* of the learning rate; default 0.1; negative: 0 */
  double decay_fraction;    /* of schedule_steps: the decay of WSD; default 0.2 */
  int64_t keep_checkpoints; /* in the folder of riverhorse_trainer_save; default 3 */
  riverhorse_dtype dtype;   /* of activations and of the matrices in products; the parameters that are learnt and
                             * saved are f32 in any case. F16 has a loss scale that finds its own size */
  riverhorse_recompute recompute; /* where memory is short */
  riverhorse_logits logits;
} riverhorse_trainer_options;

/* A training before its first step; all memory is allocated here, after the log was told how much for what.
 * Errors: NOT_FOUND, BAD_FILE, UNSUPPORTED (a device that does not train, or not in that dtype),
 * OUT_OF_MEMORY. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_create(riverhorse_device* device,
                                                           const riverhorse_trainer_options* options,
                                                           riverhorse_trainer** trainer);

/* Goes on exactly where a trainer was saved, with its options: `folder` is what riverhorse_trainer_save was given, of
 * which the newest whole checkpoint is taken, or one checkpoint's folder. Errors: as above; NOT_FOUND for a folder
 * without one. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_resume(riverhorse_device* device, const char* folder,
                                                           riverhorse_trainer** trainer);
/* Threads: alone. */
RIVERHORSE_API void riverhorse_trainer_free(riverhorse_trainer* trainer);

typedef struct riverhorse_trainer_info {
  uint32_t struct_size;
  riverhorse_dtype dtype;
  int64_t batch;           /* B */
  int64_t length;          /* L */
  int64_t step;            /* done */
  int64_t sequences;       /* of all steps: where in its data a caller goes on */
  int64_t parameter_count; /* the tied embedding counted once */
  int64_t vocab_size;
  int64_t padded_vocab_size; /* ids and targets are below it */
  char device_id[32];
} riverhorse_trainer_info;

/* Fills `info`, whose struct_size is set by the caller. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_get_info(const riverhorse_trainer* trainer,
                                                             riverhorse_trainer_info* info);

typedef struct riverhorse_step_result {
  uint32_t struct_size;
  int32_t skipped;      /* 1: the gradient norm was above skip_above or not finite, and nothing was changed */
  int64_t step;         /* this one, from 1 */
  int64_t scored;       /* tokens */
  double loss;          /* mean over them, natural logarithm, before the update */
  double gradient_norm; /* before clipping */
  double loss_scale;    /* what the gradients were multiplied by, and divided again; 1 but for F16 */
  double learning_rate; /* of this step */
} riverhorse_step_result;

/* One step on `sequences` sequences, any number above 0, each from an empty state: `ids` (sequences, L) and
 * `targets` (sequences, L), the id that should follow each token, -1 where nothing is scored. Null targets: the next
 * id of each sequence, and -1 at its end. `result` may be null.
 * INVALID_ARGUMENT: an id or a target out of range, or no target at all; nothing was changed then. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_step(riverhorse_trainer* trainer, const int32_t* ids,
                                                         const int32_t* targets, size_t sequences,
                                                         riverhorse_step_result* result);

typedef struct riverhorse_evaluation {
  uint32_t struct_size;
  double loss_sum; /* over the scored tokens, natural logarithm */
  int64_t scored;  /* tokens */
  int64_t correct; /* of them, where the largest logit was the target's */
} riverhorse_evaluation;

/* The loss of such sequences, without dropout; changes nothing. Errors: as riverhorse_trainer_step. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_evaluate(riverhorse_trainer* trainer, const int32_t* ids,
                                                             const int32_t* targets, size_t sequences,
                                                             riverhorse_evaluation* result);

/* Writes the checkpoint <folder>/step-<the step, 8 digits>, whole or not at all: a model folder for
 * riverhorse_model_load, with the state of the training beside it. Makes `folder` if it is absent, and removes all
 * its checkpoints but the newest. IO_ERROR: the folder is in use by another process too. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_save(riverhorse_trainer* trainer, const char* folder);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif
