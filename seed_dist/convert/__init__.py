"""Published weights and ours, both ways: files under the names of SEED and BLIP-2, folders of save_pretrained."""
