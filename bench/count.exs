defmodule Bench.Count do
  # A Collectable that counts the bytes put into it: what a command's output costs without what keeping it costs.
  @moduledoc false

  defstruct []

  @doc """
  Makes the protocols know the scripts' structs, and those of the peers whose `ebin` directories are given.

  Mix consolidates them with what the project has. They are consolidated again and not left open, because
  each call of an open protocol costs, and some contestants make more of them than others.
  """
  def consolidate(ebins) do
    project = String.to_charlist(Mix.Project.compile_path())
    elixir = :filename.join(:code.lib_dir(:elixir), ~c"ebin")
    Code.delete_path(Mix.Project.consolidation_path())

    for {protocol, own} <- [{Collectable, [__MODULE__]}, {Enumerable, []}] do
      :code.purge(protocol)
      :code.delete(protocol)
      structs = Protocol.extract_impls(protocol, [project, elixir | ebins])
      {:ok, binary} = Protocol.consolidate(protocol, own ++ structs)
      :code.purge(protocol)
      {:module, ^protocol} = :code.load_binary(protocol, ~c"bench", binary)
    end

    :ok
  end

  # Defined by hand: `defimpl` warns of a protocol that is consolidated, which this one is until `consolidate/1`.
  defmodule Elixir.Collectable.Bench.Count do
    @moduledoc false
    def __impl__(:for), do: Bench.Count
    def __impl__(:target), do: __MODULE__
    def __impl__(:protocol), do: Collectable

    def into(%Bench.Count{}) do
      {0,
       fn
         bytes, {:cont, data} -> bytes + byte_size(data)
         bytes, :done -> bytes
         _bytes, :halt -> :ok
       end}
    end
  end
end
