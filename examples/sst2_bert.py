"""Fine-tunes BERT to tell whether a film review's sentence is positive.

SST-2 of GLUE (Wang et al. 2019, arXiv:1804.07461): 67,349 sentences to train
on; tested on the 872 to validate on, as the labels of its test set are not
public. `--offline PATH.csv` trains a small network on texts and categories of
any kind, of which each fifth row is tested on.

Epochs, batch, learning rate: 3, 32, and 2e-5 of the four rates that Devlin et
al. 2019 (arXiv:1810.04805, section 4.1) choose from for each task of GLUE.
AdamW, length of a text, warm-up over a tenth of the steps, decay to zero,
clipping to a global norm of 1, weight decay of 0.01 but for biases and
normalization: BERT's own code. rho: 0.15, which Bahri et al. 2022
(arXiv:2110.08529) found a good value for language models; they trained T5, on
GLUE too, and perturbed all layers. All values of `--offline`: our choice.
"""

import bert_task
import pipelines
import recipe

REFERENCE = {
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "rho": 0.15,
    "sequence_length": 128,
}
OFFLINE = {
    "epochs": 10,
    "learning_rate": 1e-3,
    "rho": 0.05,
    "sequence_length": 32,
}


def parse(arguments=None):
    """The command line."""
    parser = bert_task.parser(
        __doc__, "sst2_bert", REFERENCE, OFFLINE, "bert_base_en_uncased"
    )
    args = recipe.parse(parser, arguments)
    if args.offline == "":
        parser.error("--offline: give a CSV file; no texts come with this")
    return args


def load(args):
    """Sentences and labels."""
    if args.offline:
        return pipelines.batches(args, bert_task.examples(args.offline))
    name = "glue/sst2"
    info, *splits = pipelines.catalogue(args, name, "validation")
    train, test = (
        split.map(lambda row: (row["sentence"], row["label"]))
        for split in splits
    )
    examples = pipelines.Examples(
        train,
        test,
        train_size=len(train),
        test_size=len(test),
        classes=info.features["label"].num_classes,
        name=name,
    )
    return pipelines.batches(args, examples)


def main(arguments=None):
    """Fine-tunes, or trains a small classifier."""
    return recipe.run(
        parse(arguments), load, bert_task.build, bert_task.settings
    )


if __name__ == "__main__":
    main()
