"""Sources deliver partitions; validation decides which of their rows the rest may see.

sources/        one file per kind of source
formats/        what is in a file: CSV, JSON lines, Parquet, packed or not
values/         its columns in the six types; run_schema: one recorded type for each column of a source
partitions      extracted, staged, published: atomic, idempotent days of data
suites          Great Expectations' suites, read and checked; proposal, drafting, profile: proposed from the data
expectations/   what each family of expectations means for rows and partitions
runner          Great Expectations itself; frames: the pandas frames on which it judges exactly
judgement       one table, judged; validation: all partitions of a run; outcomes: written and recorded
data_docs       pages of what validation recorded
"""
