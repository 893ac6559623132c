/* Rows of a table by index, from memory or straight from the file. */
#pragma once
#include "layout.h"

/* False if an index was out of range or a row could not be read; the context's failure says which. */
ULL_INTERNAL bool run_gather(Context *c, const GatherCommand *gather);
