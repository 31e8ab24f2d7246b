// SPDX-License-Identifier: GPL-2.0

/* <linux/slab.h>, <linux/gfp.h> */
#include "shim.h"

void *ksm_v_alloc_pages_exact(size_t size, gfp_t gfp)
{
	return alloc_pages_exact(size, gfp);
}

void ksm_v_free_pages_exact(void *addr, size_t size)
{
	free_pages_exact(addr, size);
}

void *ksm_v_kvmalloc(size_t size, gfp_t gfp)
{
	return kvmalloc(size, gfp);
}

void *ksm_v_krealloc(void *addr, size_t size, gfp_t gfp)
{
	return krealloc(addr, size, gfp);
}
