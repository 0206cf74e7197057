defmodule Leash.Group do
  # What a group of workers may be called.
  #
  # Something that reads the same in a log, in a configuration and after a restart: an atom such as the pool's module, a
  # string where names come from outside (no atom may be made of those), a tuple for one of many (`{MyApp.Pool, 3}`).
  # Not a list, which would read as several groups, nor a bare pid, which nobody can say after a crash.
  @moduledoc false

  alias Leash.Schema

  @typedoc "A group's name; not `nil` (no group), and not `:all`, which means everybody."
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

  @doc "Whether a worker of this group is meant by what somebody asks for."
  @spec includes?(t() | :all, t() | nil) :: boolean()
  def includes?(:all, _group), do: true
  def includes?(same, group), do: same === group
end
