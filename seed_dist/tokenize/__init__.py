"""Pictures to ids, and ids to pictures, by a trained tokenizer: the command for those who only use one."""
