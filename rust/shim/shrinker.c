// SPDX-License-Identifier: GPL-2.0

/* <linux/shrinker.h> */
#include "shim.h"

/* rust/sys/shrinker.rs defines the same value. */
static_assert(SHRINK_STOP == ULONG_MAX);

struct shrinker *ksm_v_shrinker_new(const char *name, ksm_v_shrink_fn *count,
				    ksm_v_shrink_fn *scan, void *data)
{
	struct shrinker *shrinker = shrinker_alloc(0, "%s", name);

	if (!shrinker)
		return NULL;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	/* No more objects than needed, because each of them is large. */
	shrinker->batch = 1;
	shrinker->private_data = data;
	shrinker_register(shrinker);
	return shrinker;
}

void *ksm_v_shrinker_data(struct shrinker *shrinker)
{
	return shrinker->private_data;
}

unsigned long ksm_v_shrink_count(struct shrink_control *control)
{
	return control->nr_to_scan;
}

void ksm_v_shrinker_free(struct shrinker *shrinker)
{
	shrinker_free(shrinker);
}
