"""Public test sets in the layouts people download them in: COCO, Flickr30K, NoCaps, VQAv2, GQA, OK-VQA, VizWiz."""
