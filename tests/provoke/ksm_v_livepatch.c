// SPDX-License-Identifier: GPL-2.0
/*
 * A livepatch of rmap_walk_ksm(). On a kernel without livepatches: an ftrace_ops that may redirect it,
 * like the one of a livepatch. The replacement finds no mapping, so ksmd must not merge anything
 * meanwhile.
 */

#include <linux/module.h>

#ifdef CONFIG_LIVEPATCH
#include <linux/livepatch.h>
#include <linux/rmap.h>

static void no_walk(struct folio *folio, struct rmap_walk_control *rwc)
{
}

static struct klp_func funcs[] = {
	{
		.old_name = "rmap_walk_ksm",
		.new_func = no_walk,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* The kernel itself. */
		.name = NULL,
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

/* An enabled livepatch cannot be unloaded. */
static void __exit livepatch_exit(void)
{
}

MODULE_INFO(livepatch, "Y");
#else
#include <linux/ftrace.h>

static void notrace no_redirect(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
				struct ftrace_regs *fregs)
{
}

static struct ftrace_ops ops = {
	.func = no_redirect,
	.flags = FTRACE_OPS_FL_IPMODIFY,
};

static int __init livepatch_init(void)
{
	char name[] = "rmap_walk_ksm";

	return ftrace_set_filter(&ops, name, strlen(name), 1) ?: register_ftrace_function(&ops);
}

static void __exit livepatch_exit(void)
{
	unregister_ftrace_function(&ops);
	ftrace_free_filter(&ops);
}
#endif

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_DESCRIPTION("Redirects a function that ksm_v redirects, too");
MODULE_LICENSE("GPL");
