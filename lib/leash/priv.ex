defmodule Leash.Priv do
  # The native library and programs must be files: the system cannot load or execute what is
  # inside an archive.
  @moduledoc false

  @doc """
  Checks that the application's priv can be a directory.

  The error is a sentence that says what is there instead.
  """
  @spec check() :: :ok | {:error, String.t()}
  def check do
    # If the code server does not know the application, then this is a script or a compilation.
    # Its code is beside it.
    with path when is_list(path) <- :code.priv_dir(:leash),
         archive when archive != nil <- path |> List.to_string() |> archive() do
      {:error,
       "Leash needs its native library and leash-shim as files, and #{archive} is an " <>
         "archive (an escript): " <>
         "start this program from a release (mix release) or with mix run"}
    else
      _files -> :ok
    end
  end

  # Returns the part of the path that is a file.
  defp archive(path) do
    path
    |> Stream.iterate(&Path.dirname/1)
    |> Enum.take_while(&(&1 not in ["/", "."]))
    |> Enum.find(&File.regular?/1)
  end
end
