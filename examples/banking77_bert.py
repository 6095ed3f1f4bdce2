"""Fine-tunes BERT to tell what a bank's customer wants, from a CSV file.

Banking77 (Casanueva et al. 2020, arXiv:2003.04807) has 10,003 questions to
train on and 3,080 to test on, of 77 intents. Its CSV files, of the columns
`text` and `category`, are in the folder `banking_data` of
github.com/PolyAI-LDN/task-specific-datasets. Any files of these columns will
do; without `--test`, each fifth row of `--train` is tested on.

Epochs, batch, learning rate: of what Devlin et al. 2019 (arXiv:1810.04805)
recommend for BERT (appendix A.3) the most, as the classes are many and the
examples few. AdamW, warm-up over a tenth of the steps, decay to zero, clipping
to a global norm of 1, weight decay of 0.01 but for biases and normalization:
BERT's own code. rho: 0.15, which Bahri et al. 2022 (arXiv:2110.08529) found a
good value for language models; they trained T5 and perturbed all layers.
The length of a text, and all values of `--offline`: our choice.
"""

import bert_task
import pipelines
import recipe

REFERENCE = {
    "epochs": 4,
    "batch_size": 32,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "rho": 0.15,
    "sequence_length": 64,
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
        __doc__, "banking77_bert", REFERENCE, OFFLINE, "bert_base_en_uncased"
    )
    parser.add_argument(
        "--train", metavar="PATH.csv", help="train on this file; or --offline"
    )
    parser.add_argument("--test", metavar="PATH.csv", help="test on this file")
    args = recipe.parse(parser, arguments)
    if not (args.train or args.offline):
        parser.error("--train: give the CSV file to train on")
    return args


def load(args):
    """Questions and their intents."""
    examples = bert_task.examples(args.train or args.offline, args.test)
    return pipelines.batches(args, examples)


def main(arguments=None):
    """Fine-tunes, or trains a small classifier."""
    args = parse(arguments)
    return recipe.run(args, load, bert_task.build, bert_task.settings)


if __name__ == "__main__":
    main()
