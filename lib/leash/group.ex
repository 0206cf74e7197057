defmodule Leash.Group do
  # The names that a group of workers may have.
  #
  # A name reads the same in a log, in a configuration and after a restart. It is an atom such as
  # the pool's module, or a tuple for one of many (`{MyApp.Pool, 3}`). If names come from outside,
  # then it is a string, because no atom may be made of those. It is not a list, which would read
  # as several groups. It is not a bare pid, which is unknown after a crash.
  @moduledoc false

  alias Leash.Schema

  @typedoc "The name of a group; not `nil` (no group), and not `:all`, which means every worker."
  @type t :: Leash.group()

  @spec valid?(term()) :: boolean()
  def valid?(group) when group in [nil, :all], do: false
  def valid?(group), do: is_atom(group) or is_binary(group) or is_tuple(group)

  @doc "The type of the option `:group`."
  @spec option() :: Schema.type()
  def option do
    Schema.custom(
      &__MODULE__.optional?/1,
      "an atom (not :all), a string or a tuple",
      quote(do: Leash.group() | nil)
    )
  end

  @doc false
  @spec optional?(term()) :: boolean()
  def optional?(group), do: group == nil or valid?(group)

  @doc "Returns whether a request for a group, or for `:all`, includes a worker of this group."
  @spec includes?(t() | :all, t() | nil) :: boolean()
  def includes?(:all, _group), do: true
  def includes?(same, group), do: same === group
end
