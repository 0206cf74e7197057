defmodule Leash.Test.Recipe do
  @moduledoc """
  The blocks of code in a guide, by the title of their section, as a reader would paste them.
  """

  @root Path.expand("../..", __DIR__)

  @doc "Skips the next test, with the reason, unless these programs are installed."
  defmacro needs(programs) do
    quote do
      for program <- unquote(programs), System.find_executable(program) == nil do
        @tag skip: "#{program} is not installed"
      end
    end
  end

  @doc "Returns the blocks of Elixir in a section of a guide."
  @spec blocks(String.t(), String.t()) :: [String.t()]
  def blocks(guide, title) do
    [_before, section] =
      @root |> Path.join("guides/#{guide}.md") |> File.read!() |> String.split("## #{title}\n")

    [section | _others] = String.split(section, "\n## ")
    for [_all, code] <- Regex.scan(~r/^```elixir\n(.*?)^```$/ms, section), do: code
  end

  @doc "Evaluates a block with these variables; returns them with those that it binds."
  @spec run(String.t(), String.t(), keyword(), non_neg_integer()) :: {term(), keyword()}
  def run(guide, title, variables, index \\ 0) do
    guide |> blocks(title) |> Enum.at(index) |> Code.eval_string(variables)
  end

  @doc "Returns a port of this machine at which nothing listens."
  @spec free_port() :: :inet.port_number()
  def free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end
end
