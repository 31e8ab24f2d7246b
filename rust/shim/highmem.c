// SPDX-License-Identifier: GPL-2.0

/* <linux/highmem.h> */
#include "shim.h"

int ksm_v_copy_mc_highpage(struct page *to, struct page *from)
{
	return copy_mc_highpage(to, from);
}
