// SPDX-License-Identifier: GPL-2.0

/* <linux/slab.h> */
#include "shim.h"

void *ksm_v_kvmalloc(size_t size, gfp_t gfp)
{
	return kvmalloc(size, gfp);
}
