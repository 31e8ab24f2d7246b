// SPDX-License-Identifier: GPL-2.0
/*
 * Fails copies out of one frame, like memory with an uncorrectable error. The frame
 * numbers written to the debugfs file ksm_v_fail_copy are candidates: the one that is
 * copied first fails. Reading the file returns the frame and the number of failed copies.
 */

#include <linux/debugfs.h>
#include <linux/io.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#define MOST 8

static unsigned long frames[MOST];
/* The failing frame, once it is known. */
static atomic_long_t failing = ATOMIC_LONG_INIT(0);
static atomic_t failures = ATOMIC_INIT(0);

static bool fails(unsigned long frame)
{
	for (int i = 0; i < MOST; i++) {
		if (frame && READ_ONCE(frames[i]) == frame) {
			long first = atomic_long_cmpxchg(&failing, 0, frame);

			return !first || first == frame;
		}
	}
	return false;
}

/* Replaces copy_mc_to_kernel(to, from, length): copies nothing. */
static int enter(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	void *from = (void *)regs_get_kernel_argument(regs, 1);

	if (!virt_addr_valid(from) || !fails(PHYS_PFN(virt_to_phys(from))))
		return 1;
	regs->dx = 0;
	return 0;
}

static int leave(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	atomic_inc(&failures);
	regs_set_return_value(regs, PAGE_SIZE);
	return 0;
}

static struct kretprobe probe = {
	.kp.symbol_name = "copy_mc_to_kernel",
	.entry_handler = enter,
	.handler = leave,
	.maxactive = 16,
};

static ssize_t fail_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	char buffer[256], *rest = buffer, *word;

	if (len >= sizeof(buffer))
		return -EINVAL;
	if (copy_from_user(buffer, text, len))
		return -EFAULT;
	buffer[len] = '\0';
	for (int i = 0; i < MOST; i++)
		WRITE_ONCE(frames[i], 0);
	atomic_long_set(&failing, 0);
	atomic_set(&failures, 0);
	for (int i = 0; i < MOST && (word = strsep(&rest, " \n")); i++) {
		unsigned long frame = 0;

		if (*word && kstrtoul(word, 0, &frame))
			return -EINVAL;
		WRITE_ONCE(frames[i], frame);
	}
	return len;
}

static int fail_show(struct seq_file *seq, void *unused)
{
	seq_printf(seq, "%ld %d\n", atomic_long_read(&failing), atomic_read(&failures));
	return 0;
}

DEFINE_SHOW_STORE_ATTRIBUTE(fail);

static struct dentry *dentry;

static int __init fail_init(void)
{
	int err = register_kretprobe(&probe);

	if (err)
		return err;
	dentry = debugfs_create_file("ksm_v_fail_copy", 0600, NULL, NULL, &fail_fops);
	if (IS_ERR(dentry))
		unregister_kretprobe(&probe);
	return PTR_ERR_OR_ZERO(dentry);
}

static void __exit fail_exit(void)
{
	debugfs_remove(dentry);
	unregister_kretprobe(&probe);
}

module_init(fail_init);
module_exit(fail_exit);
MODULE_DESCRIPTION("Fails copies out of one frame");
MODULE_LICENSE("GPL");
