// SPDX-License-Identifier: GPL-2.0

/* <asm/barrier.h> */
#include "shim.h"

void ksm_v_smp_rmb(void)
{
	smp_rmb();
}
