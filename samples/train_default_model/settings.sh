# How the default model is trained: options of `riverhorse train`, the same for all three models that are compared.
# A step is 32 sequences of 1024 tokens. Sourced by train.sh; it does nothing by itself.
vocabulary=6144
training_options=(--length 1024 --batch 32 --learning-rate 1.5e-3 --schedule cosine --warmup 200 --final-fraction 0.05
  --weight-decay 0.1 --clip 1 --seed 1 --keep 1)
# Generated greedily on the cpu when training ends; the tests hold every backend to it.
greedy_prompt="It was late in the evening when"
greedy_tokens=48
