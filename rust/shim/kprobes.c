// SPDX-License-Identifier: GPL-2.0

/* <linux/kprobes.h> */
#include "shim.h"

int ksm_v_register_kprobe(struct kprobe *probe)
{
	return register_kprobe(probe);
}

void ksm_v_unregister_kprobe(struct kprobe *probe)
{
	unregister_kprobe(probe);
}
