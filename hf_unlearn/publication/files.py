"""The files of a run: what they are called, and which of them are published."""

# Stay here: whoever holds the salt can ask which images were forgotten, and the request may name them.
SALT = "unlearning_salt"
REQUEST = "forget_request.yaml"

CARD, RECORD, SIGNATURE = "README.md", "unlearning_record.json", "unlearning_record.sig"

# What a reader of the model page needs, and nothing else: no pickle, no checkpoint, no list of what was forgotten, no
# salt of the record.
PUBLISHED = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json")
PUBLISHED += ("adapter_config.json", "report.json", "figures/*.png", CARD, RECORD, SIGNATURE)
