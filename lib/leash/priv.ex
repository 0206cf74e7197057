defmodule Leash.Priv do
  # The native library and programs have to be files: the system loads and executes nothing that is inside of an archive.
  @moduledoc false

  @doc "Whether the application's priv can be a directory; the error is a sentence that says what is there instead."
  @spec check() :: :ok | {:error, String.t()}
  def check do
    # Not an application that the code server knows is a script or a compilation, whose code lies beside it.
    with path when is_list(path) <- :code.priv_dir(:leash),
         archive when archive != nil <- path |> List.to_string() |> archive() do
      {:error,
       "Leash needs its native library and leash-shim as files, and #{archive} is an archive (an escript): " <>
         "start this program from a release (mix release) or with mix run"}
    else
      _files -> :ok
    end
  end

  # What in the path is no directory.
  defp archive(path) do
    path
    |> Stream.iterate(&Path.dirname/1)
    |> Enum.take_while(&(&1 not in ["/", "."]))
    |> Enum.find(&File.regular?/1)
  end
end
