defmodule Leash.Posix do
  # The names of error numbers, from errno(3) and the generic Linux headers.
  @moduledoc false

  @names %{
    1 => :eperm,
    2 => :enoent,
    3 => :esrch,
    4 => :eintr,
    5 => :eio,
    6 => :enxio,
    7 => :e2big,
    8 => :enoexec,
    9 => :ebadf,
    10 => :echild,
    11 => :eagain,
    12 => :enomem,
    13 => :eacces,
    14 => :efault,
    16 => :ebusy,
    17 => :eexist,
    19 => :enodev,
    20 => :enotdir,
    21 => :eisdir,
    22 => :einval,
    23 => :enfile,
    24 => :emfile,
    26 => :etxtbsy,
    27 => :efbig,
    28 => :enospc,
    30 => :erofs,
    32 => :epipe,
    36 => :enametoolong,
    38 => :enosys,
    40 => :eloop,
    80 => :elibbad,
    95 => :eopnotsupp,
    104 => :econnreset,
    105 => :enobufs,
    110 => :etimedout,
    111 => :econnrefused,
    116 => :estale,
    122 => :edquot,
    125 => :ecanceled
  }

  @type t :: atom() | {:errno, pos_integer()}

  @doc "Returns the name, or `{:errno, number}` for one that no call here is documented to give."
  @spec name(pos_integer()) :: t()
  def name(errno), do: Map.get(@names, errno, {:errno, errno})
end
