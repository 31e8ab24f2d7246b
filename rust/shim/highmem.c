// SPDX-License-Identifier: GPL-2.0

/* <linux/highmem.h> */
#include "shim.h"

void ksm_v_copy_highpage(struct page *to, struct page *from)
{
	copy_highpage(to, from);
}
