// SPDX-License-Identifier: GPL-2.0

/* <linux/ptrace.h> */
#include "shim.h"

unsigned long ksm_v_regs_get_kernel_argument(struct pt_regs *regs, unsigned int n)
{
#ifdef CONFIG_HAVE_FUNCTION_ARG_ACCESS_API
	return regs_get_kernel_argument(regs, n);
#else
	return 0;
#endif
}
