# Types of msa, whose functions are made of the library's own table of stages: tests/support/python.py holds both together.
from os import PathLike
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
STAGES: List[str]

class Error(ValueError): ...

def kernels() -> List[Tuple[str, str, str]]: ...

# ---- Stages: q [T,Hq,dh]  k,v [S,Hkv,dh]  qi [T,Hkv,di]  ki [S,di]  o [T,Hq,dh]  lse [T,Hq]  ids [Hkv,T,k] --------------

def dense(q: ArrayLike, k: ArrayLike, v: ArrayLike, *, block: int = 128, kernel: str = "fast", cu_q: Optional[ArrayLike] = None,
          cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
          len_kv: Optional[ArrayLike] = None) -> Tuple[Floats, Floats]: ...
def scores(qi: ArrayLike, ki: ArrayLike, *, block: int, kernel: str = "fast", cu_q: Optional[ArrayLike] = None,
           cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None, len_kv: Optional[ArrayLike] = None) -> Floats: ...
def index(qi: ArrayLike, ki: ArrayLike, *, block: int, topk: int, kernel: str = "fast", cu_q: Optional[ArrayLike] = None,
          cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None, len_kv: Optional[ArrayLike] = None) -> Ids: ...
def index_lse(qi: ArrayLike, ki: ArrayLike, ids: Optional[ArrayLike] = None, *, block: int, cu_q: Optional[ArrayLike] = None,
              cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
              len_kv: Optional[ArrayLike] = None) -> Floats: ...
def topk(m: ArrayLike, *, n_kv: int, block: int, topk: int, kernel: str = "fast", cu_q: Optional[ArrayLike] = None,
         cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None, len_kv: Optional[ArrayLike] = None) -> Ids: ...
def reverse(ids: ArrayLike, *, n_kv: int, block: int, kernel: str = "fast") -> Tuple[Ids, NDArray[np.uint32], Ids]: ...
def sparse(q: ArrayLike, k: ArrayLike, v: ArrayLike, ids: ArrayLike, *, block: int, kernel: str = "fast",
           cu_q: Optional[ArrayLike] = None, cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
           len_kv: Optional[ArrayLike] = None) -> Tuple[Floats, Floats]: ...
def prefill(q: ArrayLike, k: ArrayLike, v: ArrayLike, qi: ArrayLike, ki: ArrayLike, *, topk: int, block: int,
            kernel: str = "fast", cu_q: Optional[ArrayLike] = None, cu_kv: Optional[ArrayLike] = None,
            len_q: Optional[ArrayLike] = None, len_kv: Optional[ArrayLike] = None) -> Tuple[Ids, Floats, Floats]: ...
def decode(q: ArrayLike, k: ArrayLike, v: ArrayLike, qi: ArrayLike, ki: ArrayLike, *, block: int, topk: int,
           kernel: str = "fast", cu_q: Optional[ArrayLike] = None, cu_kv: Optional[ArrayLike] = None,
           len_q: Optional[ArrayLike] = None, len_kv: Optional[ArrayLike] = None) -> Tuple[Ids, Floats, Floats]: ...
def dense_decode(q: ArrayLike, k: ArrayLike, v: ArrayLike, *, block: int = 128, kernel: str = "fast",
                 cu_q: Optional[ArrayLike] = None, cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
                 len_kv: Optional[ArrayLike] = None) -> Tuple[Floats, Floats]: ...
def decode_pages(q: ArrayLike, k: ArrayLike, v: ArrayLike, table: ArrayLike, lens: ArrayLike, qi: Optional[ArrayLike] = None,
                 ki: Optional[ArrayLike] = None, *, topk: Optional[int] = None, block: Optional[int] = None,
                 len_q: Optional[ArrayLike] = None, kernel: str = "fast") -> Tuple[NDArray, ...]: ...
def backward(q: ArrayLike, k: ArrayLike, v: ArrayLike, dout: ArrayLike, ids: Optional[ArrayLike] = None,
             o: Optional[ArrayLike] = None, lse: Optional[ArrayLike] = None, *, block: int = 128, kernel: str = "fast",
             cu_q: Optional[ArrayLike] = None, cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
             len_kv: Optional[ArrayLike] = None) -> Tuple[Floats, Floats, Floats]: ...
def dense_backward(q: ArrayLike, k: ArrayLike, v: ArrayLike, dout: ArrayLike, o: Optional[ArrayLike] = None,
                   lse: Optional[ArrayLike] = None, *, block: int = 128, kernel: str = "fast", cu_q: Optional[ArrayLike] = None,
                   cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
                   len_kv: Optional[ArrayLike] = None) -> Tuple[Floats, Floats, Floats]: ...
def kl(q: ArrayLike, k: ArrayLike, qi: ArrayLike, ki: ArrayLike, ids: Optional[ArrayLike] = None,
       lse: Optional[ArrayLike] = None, index_lse: Optional[ArrayLike] = None, *, block: int = 128, weight: float = 1.0,
       kernel: str = "fast", cu_q: Optional[ArrayLike] = None, cu_kv: Optional[ArrayLike] = None,
       len_q: Optional[ArrayLike] = None, len_kv: Optional[ArrayLike] = None) -> Tuple[float, Floats, Floats]: ...

# ---- What a selection saves and loses ------------------------------------------------------------------------

def recall(q: ArrayLike, k: ArrayLike, ids: ArrayLike, *, block: int, cu_q: Optional[ArrayLike] = None,
           cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
           len_kv: Optional[ArrayLike] = None) -> Tuple[int, float, float]: ...
def recall_of_queries(q: ArrayLike, k: ArrayLike, ids: ArrayLike, *, block: int, cu_q: Optional[ArrayLike] = None,
                      cu_kv: Optional[ArrayLike] = None, len_q: Optional[ArrayLike] = None,
                      len_kv: Optional[ArrayLike] = None) -> Floats: ...
def block_mass(q: ArrayLike, k: ArrayLike, *, block: int, cu_q: Optional[ArrayLike] = None, cu_kv: Optional[ArrayLike] = None,
               len_q: Optional[ArrayLike] = None, len_kv: Optional[ArrayLike] = None) -> Floats: ...
def cost(n: int, *, n_heads: int = 64, n_kv_heads: int = 4, d_head: int = 128, d_index: int = 128, block: int = 128,
         topk: int = 16) -> Dict[str, float]: ...

# ---- MiniMax-M3: a layer of a checkpoint; what the index of a model chooses ------------------------------------

def layer(checkpoint: Union[str, PathLike[str]], n: int, hidden: ArrayLike, *, residual: bool = False,
          positions: Optional[ArrayLike] = None, past: Optional[Mapping[str, ArrayLike]] = None, ids: Optional[ArrayLike] = None,
          kernel: Union[str, Sequence[str]] = (), rot: Optional[int] = None, index_rot: Optional[int] = None,
          exact_angles: bool = False) -> Dict[str, NDArray]: ...

class Group(NamedTuple):
    layer: int
    group: int
    queries: int
    block_recall: float
    score_recall: float
    mass: float

class Watched:
    out: Path
    page: Path
    groups: List[Group]
    wrong: Dict[int, int]
    def maps(self, layer: int) -> Dict[str, NDArray]: ...

def watch(model: Any, tokens: ArrayLike, out: Union[str, PathLike[str]] = "watched", layers: Optional[Iterable[int]] = None,
          **inputs: Any) -> Watched: ...

# ---- Norm and rotary -----------------------------------------------------------------------------------------

def rmsnorm(x: ArrayLike, gain: ArrayLike, eps: float = 1e-6) -> Floats: ...
def rope(x: ArrayLike, rot: int, theta: float = 5e6, pos: Optional[ArrayLike] = None) -> Floats: ...
