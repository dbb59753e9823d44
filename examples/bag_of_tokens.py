"""A text classifier of one's own: the mean of a text's embedded tokens, a hidden layer and a linear
classifier.

    geocollapse measure examples/bag_of_tokens.py:bag_of_tokens csv:examples/questions.csv
        --input-layer tokens \\ --tokenizer sentence-transformers/all-MiniLM-L6-v2
"""

from torch import Tensor, nn


class BagOfTokens(nn.Module):
    """Takes what a tokenizer gives, by name; of it the tokens and their mask are used."""

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
    return BagOfTokens(vocabulary, width, num_classes)
