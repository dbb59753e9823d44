"""A text classifier of your own: the mean of the embedded tokens, a hidden layer and a classifier.

    geocollapse measure examples/bag_of_tokens.py:bag_of_tokens csv:examples/questions.csv \\
        --input-layer tokens --tokenizer sentence-transformers/all-MiniLM-L6-v2
"""

from torch import Tensor, nn


class BagOfTokens(nn.Module):
    """Takes the tensors of a tokenizer by name, and uses the tokens and their mask."""

    def __init__(self, vocabulary: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_others: Tensor) -> Tensor:
        is_token = attention_mask[:, :, None]
        mean = (self.tokens(input_ids) * is_token).sum(dim=1) / is_token.sum(dim=1)
        return self.classifier(self.hidden(mean))


def bag_of_tokens(vocabulary: int = 30522, width: int = 32, num_classes: int = 2) -> BagOfTokens:
    """An untrained classifier; the vocabulary is that of BERT's tokenizer."""
    return BagOfTokens(vocabulary, width, num_classes)
