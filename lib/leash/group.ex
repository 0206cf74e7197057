defmodule Leash.Group do
  # The names that a group of workers may have.
  #
  # A name reads the same in a log, in a configuration and after a restart. It is an atom such as
  # the pool's module, or a tuple for one of many (`{MyApp.Pool, 3}`). If names come from outside,
  # then it is a string, because no atom may be made of those. It is not a list, which would read
  # as several groups. It is not a bare pid, which is unknown after a crash.
  @moduledoc false

  @typedoc "The name of a group; not `nil` (no group), and not `:all`, which means every worker."
  @type t :: Leash.group()

  @spec valid?(term()) :: boolean()
  def valid?(group) when group in [nil, :all], do: false
  def valid?(group), do: is_atom(group) or is_binary(group) or is_tuple(group)

  @doc "The option `:group`."
  @spec option(String.t()) :: keyword()
  def option(doc) do
    [
      type: {:or, [nil, {:custom, __MODULE__, :check, []}]},
      type_doc: "an atom (not :all), a string or a tuple",
      type_spec: quote(do: Leash.group() | nil),
      doc: doc
    ]
  end

  @doc false
  @spec check(term()) :: {:ok, t()} | {:error, String.t()}
  def check(group),
    do: if(valid?(group), do: {:ok, group}, else: {:error, "the name of a group"})

  @doc "Returns whether a request for a group, or for `:all`, includes a worker of this group."
  @spec includes?(t() | :all, t() | nil) :: boolean()
  def includes?(:all, _group), do: true
  def includes?(same, group), do: same === group
end
