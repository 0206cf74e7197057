defmodule Bench.Count do
  # A Collectable that counts the bytes put into it. It shows what a command's output costs
  # without the cost of keeping it.
  @moduledoc false

  defstruct []

  @doc """
  Makes the protocols know the scripts' structs, and those of the peers with these `ebin`
  directories.

  Mix consolidates the protocols with the project's modules. This function consolidates them
  again. It does not leave them open, because each call of an open protocol costs, and some
  contestants make more of them than others.
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

  # Defined by hand, because `defimpl` warns if a protocol is consolidated, as this one is until
  # `consolidate/1`.
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
