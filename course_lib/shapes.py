"""Array types with named axes: `Float[Tensor, "batch tokens dim"]`.

The axis names are those of the README's glossary. jaxtyping checks them in the tests; where it is
not installed (Colab), the annotation falls back to the plain array type.
"""

try:
    from jaxtyping import Bool, Float, Int, UInt8
except ImportError:

    class _Plain:
        """`_Plain[Tensor, "batch dim"]` is just `Tensor`."""

        def __class_getitem__(cls, item):
            return item[0]

    Bool = Float = Int = UInt8 = _Plain

__all__ = ["Bool", "Float", "Int", "UInt8"]
