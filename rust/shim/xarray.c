// SPDX-License-Identifier: GPL-2.0

/* <linux/xarray.h>: assigns numbers, from 1 on. */
#include <linux/xarray.h>
#include "shim.h"

static DEFINE_XARRAY_ALLOC1(anon_vmas);

struct xarray *ksm_v_xa_anon_vmas(void)
{
	return &anon_vmas;
}

int ksm_v_xa_alloc(struct xarray *xa, u32 *number, void *thing, u32 most, gfp_t gfp)
{
	return xa_alloc(xa, number, thing, XA_LIMIT(1, most), gfp);
}
